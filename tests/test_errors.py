"""The tree of errors: three-part messages and the exit codes that commands promise."""

import contextlib
import inspect

import pytest

from ladderlm import errors
from ladderlm.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExecutorError,
    LadderError,
    Stopped,
    TrainingError,
)


def test_a_message_says_what_why_and_how_to_mend_it():
    error = DataError("shard x is cut", "tokens would be lost", "prepare again")
    assert str(error) == "shard x is cut\n  why: tokens would be lost\n  fix: prepare again"
    assert (error.what, error.why, error.fix) == error.args


def test_empty_parts_leave_no_empty_lines():
    assert str(LadderError("only this")) == "only this"
    assert str(LadderError("this", fix="do that")) == "this\n  fix: do that"


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (ConfigError, 2),
        (DataError, 2),
        (CheckpointError, 2),
        (TrainingError, 1),
        (ExecutorError, 1),
    ],
)
def test_each_kind_has_the_exit_code_of_the_contract(kind, exit_code):
    assert issubclass(kind, LadderError)
    assert kind("x").exit_code == exit_code


def test_the_docstring_draws_every_error_of_the_tree():
    kinds = [
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, LadderError)
    ]
    assert len(kinds) == 6
    for name in kinds:
        assert name in errors.__doc__


@pytest.mark.parametrize(("number", "exit_code"), [(15, 143), (2, 130), (10, 138)])
def test_a_stop_by_signal_passes_through_handlers_of_errors(number, exit_code):
    def swallow() -> None:
        with contextlib.suppress(Exception):
            raise Stopped(number)

    with pytest.raises(Stopped) as caught:
        swallow()
    assert caught.value.exit_code == exit_code
