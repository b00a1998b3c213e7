"""Options explain themselves: every field of a config has a docstring that names its choices."""

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from design.sources import load_page
from ladderlm.config import field_docs
from ladderlm.study.options import LadderOptions, SearchOptions
from ladderlm.training.run_config import RunConfig

FEWEST_WORDS = 3


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
