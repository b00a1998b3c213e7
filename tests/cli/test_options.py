"""How commands read options, print JSON and show progress."""

import json
import sys
from dataclasses import dataclass, field

import pytest

from ladderlm.cli import options
from ladderlm.cli.options import parse, print_json, progress_bar


@dataclass(frozen=True)
class Inner:
    """Options of one part."""

    n_steps: int = 3
    """How many steps are taken."""
    rate: float = 0.5
    """How fast it is."""
    exact: bool = True
    """Whether it is exact."""


@dataclass(frozen=True)
class Outer:
    """Options of a command."""

    inner: Inner = field(default_factory=Inner)
    name: str | None = None
    """What it is called. Default: it has no name."""
    max_bytes: int | None = None
    """How much is read. Default: all."""
    loud: bool = False
    """Whether it is loud."""


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


def test_a_boolean_of_a_command_is_a_flag_and_one_of_a_section_takes_a_value():
    assert parse(Outer, ["--loud"], "x", "X.").loud
    assert parse(Outer, ["--inner.exact", "False"], "x", "X.") == Outer(inner=Inner(exact=False))
    with pytest.raises(SystemExit) as stop:
        parse(Outer, ["--inner.exact"], "x", "X.")
    assert stop.value.code == 2


def test_a_size_takes_a_unit():
    assert parse(Outer, ["--max-bytes", "1.5MB"], "x", "X.").max_bytes == 1_500_000
    assert parse(Outer, ["--max-bytes", "None"], "x", "X.").max_bytes is None
    assert parse(Outer, [], "x", "X.").max_bytes is None


def test_a_field_deep_in_a_section_may_have_a_short_flag():
    short = {(Inner, "rate"): "--rate"}
    assert parse(Outer, ["--rate", "2"], "x", "X.", aliases=short).inner.rate == 2.0


def test_help_shows_meaning_placeholder_and_default_but_no_none(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Outer, ["--help"], "x")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "usage: ladderlm x",
        "Options of a command.",
        "--name TEXT What it is called. Default: it has no name. --",
        "--max-bytes SIZE How much is read. Default: all. --",
        "--loud Whether it is loud. ",
        "Options of one part.",
        "--inner.n-steps N How many steps are taken. (default: 3)",
        "--inner.exact True|False Whether it is exact. (default: True)",
    ):
        assert part in shown
    assert "None" not in shown


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
