"""Options explain themselves, and a default is written once: in the dataclass of its domain."""

import ast
import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from design.sources import TREES, load_page
from ladderlm.config import field_docs
from ladderlm.study.options import LadderOptions, SearchOptions
from ladderlm.training.run_config import RunConfig

FEWEST_WORDS = 3
# Defaults that no other room has: choices of a command itself. All others are inherited.
OF_COMMANDS = """
    ChatOptions.format ConvertOptions.shards DrawingOptions.device DrawingOptions.dtype
    DrawingOptions.max_new_tokens EvalOptions.device EvalOptions.out GenerateOptions.num_samples
    InspectOptions.rows ProfileOptions.out QuickstartOptions.minutes QuickstartOptions.out
    ReportOptions.out StudyOptions.executor TrainOptions.resume
"""


def sections(cls: type) -> Iterator[type]:
    """Yield a dataclass and those of its fields, to any depth."""
    yield cls
    for kind in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(kind):
            yield from sections(typing.cast(type, kind))


def choices_of(kind: Any) -> list[str]:
    """Return the words of every Literal inside a type."""
    inside = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return [str(word) for word in inside]
    return [word for part in inside for word in choices_of(part)]


def faults_of(cls: type) -> list[str]:
    """Return a line for every field that does not explain itself."""
    docs, hints, faults = field_docs(cls), typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        words = docs.get(field.name, "").replace(":", " ").replace(",", " ").replace(".", " ")
        place = f"{cls.__name__}.{field.name}"
        if len(words.split()) < FEWEST_WORDS:
            faults.append(f"{place} has no docstring of {FEWEST_WORDS} words")
        missing = [word for word in choices_of(hints[field.name]) if word not in words.split()]
        if missing:
            faults.append(f"{place} does not explain {', '.join(missing)}")
    return faults


@pytest.mark.parametrize("cls", [*sections(RunConfig), LadderOptions, SearchOptions])
def test_every_field_of_a_config_has_a_docstring_that_names_its_choices(cls: type) -> None:
    assert faults_of(cls) == []


def test_every_option_of_every_command_explains_itself() -> None:
    parsers = load_page("commands").all_parsers()
    assert len(parsers) > 20
    faults = {
        fault for parser in parsers for cls in sections(parser.cls) for fault in faults_of(cls)
    }
    assert sorted(faults) == []


def written_defaults(tree: ast.Module) -> list[str]:
    """Return Class.field of every field whose default is a number or a text, but 0 and ""."""
    return [
        f"{node.name}.{ast.unparse(field.target)}"
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.value, ast.Constant)
        and type(field.value.value) in (int, float, str)
        and field.value.value
    ]


def test_the_command_line_inherits_its_defaults() -> None:
    commands = [tree for path, tree in TREES.items() if path.startswith("cli/")]
    found = [name for tree in commands for name in written_defaults(tree)]
    assert sorted(found) == sorted(OF_COMMANDS.split()), "inherit it from the domain's dataclass"


def test_a_default_that_is_written_down_is_found() -> None:
    code = "class A:\n a: int = 3\n b: str = ''\n c: int = B.c\n d: bool = True\n e: str = 'x'"
    assert written_defaults(ast.parse(code)) == ["A.a", "A.e"]


@dataclass
class Faulty:
    """One field of each kind."""

    silent: int = 1
    short: int = 2
    """Too short."""
    half: Literal["on", "off"] | None = None
    """Does something if on."""
    good: Literal["on", "off"] = "on"
    """Whether it does something: on or off."""


def test_a_field_that_does_not_explain_itself_is_found() -> None:
    assert faults_of(Faulty) == [
        "Faulty.silent has no docstring of 3 words",
        "Faulty.short has no docstring of 3 words",
        "Faulty.half does not explain off",
    ]
