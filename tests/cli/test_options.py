"""How commands read options, print JSON and show progress."""

import json
import sys
from dataclasses import dataclass, field

import pytest

from ladderlm.cli import options
from ladderlm.cli.options import parse, print_json, progress_bar


@dataclass(frozen=True)
class Inner:
    n_steps: int = 3
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str | None = None
    loud: bool = False


@pytest.mark.parametrize(
    "words",
    [
        ["--inner.n-steps", "7"],
        ["--inner.n-steps=7"],
        ["--inner.n_steps", "7"],
        ["--inner.n_steps=7"],
        ["--name", "x", "--inner.n-steps=7", "--name", "None"],
    ],
)
def test_nested_options_are_dotted_and_spelt_either_way(words):
    assert parse(Outer, words, "x", "X.").inner.n_steps == 7


def test_options_lie_over_the_base():
    base = Outer(inner=Inner(n_steps=9), name="base")
    found = parse(Outer, ["--inner.rate", "1e-3"], "x", "X.", base)
    assert found == Outer(inner=Inner(n_steps=9, rate=1e-3), name="base")


def test_a_boolean_is_a_flag_or_takes_a_value_as_asked():
    assert parse(Outer, ["--loud"], "x", "X.").loud
    assert parse(Outer, ["--loud", "True"], "x", "X.", flags=False).loud
    with pytest.raises(SystemExit) as stop:
        parse(Outer, ["--loud"], "x", "X.", flags=False)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--inner.n-stepz", "7"], "--inner.n-steps"),
        (["--inner.n-steps", "many"], "--inner.n-steps"),
        (["--inner.n-steps"], "--inner.n-steps"),
        (["stray"], "stray"),
    ],
)
def test_a_slip_leaves_with_code_two_and_names_the_option(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Outer, words, "x", "X.")
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""


def test_printed_json_is_strict_and_keeps_letters(capsys):
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": "é日"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": None, "b": [None, 1.5], "c": "é日"}
    assert "é日" in out
    assert "NaN" not in out


def test_progress_without_a_terminal_is_a_plain_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(options.time, "monotonic", lambda: now[0])
    with progress_bar("steps", 1000) as bar:
        for second in range(12):
            now[0] = float(second)
            bar(100 * second, "loss 1.5")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["steps: 500 of 1,000 loss 1.5", "steps: 1,000 of 1,000 loss 1.5"]


def test_progress_on_a_terminal_is_a_bar_on_standard_error(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar("documents") as bar:
        bar(1234, "train")
    out, err = capsys.readouterr()
    assert out == ""
    assert "documents" in err
    assert "1,234" in err
