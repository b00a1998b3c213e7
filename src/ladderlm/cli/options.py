"""Turn dataclasses into command-line options, and print JSON and progress.

Owns the parsing of arguments (tyro) and their help. The meaning of an option and its default are
written in the dataclass.
"""

import contextlib
import dataclasses
import inspect
import re
import sys
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec, StructConstructorSpec, StructFieldSpec

from ladderlm.config import field_docs
from ladderlm.errors import ConfigError
from ladderlm.files import to_json
from ladderlm.units import format_bytes, parse_bytes

__all__ = [
    "CheckpointOptions",
    "Option",
    "Progress",
    "options_of",
    "parse",
    "parse_part",
    "print_json",
    "progress_bar",
    "to_argv",
    "training_bar",
]

T = TypeVar("T")
Aliases = Mapping[tuple[type, str], str]
_NO_ALIASES: Aliases = {}
_REPLACED = {"--step": "--checkpoint", "--average": "--checkpoint average"}  # of CheckpointOptions
_METAVARS = {int: "N", float: "NUMBER", str: "TEXT"}
_FOLDERS = ("data", "out", "path", "pool", "start_from", "task_folder", "tokenizer")
_FILES = ("certificate", "config", "figure", "html", "prompt_file")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Option of the commands that read a model from a run."""

    checkpoint: str | None = None
    """Which checkpoint of a run: last, best (lowest validation loss), average (of the weights over
    the run, kept where train.ema_decay is set) or a step. Default: the newest that is not
    damaged."""


class Progress(Protocol):
    """Display of progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Show the amount done and a short note."""


@dataclasses.dataclass(frozen=True)
class Option:
    """Option of a command, as `--help` and docs/commands.md show it.

    Args:
        flag: name on the command line, without `n_` for the counts of a command.
        kind: its type, with annotations for the parser.
        value: default, or `tyro.MISSING`.
        metavar: placeholder of its value; None: it takes no value, or is a section of options.
        default: in words; empty where the text explains what happens without the option.
    """

    name: str
    flag: str
    kind: Any
    value: Any
    metavar: str | None
    text: str
    default: str

    @property
    def is_positional(self) -> bool:
        """Whether it is given by position and not by a flag."""
        return tyro.conf.Positional in typing.get_args(self.kind)

    @property
    def is_required(self) -> bool:
        """Whether the command needs it."""
        return self.value is tyro.MISSING


def options_of(
    cls: type, base: Any = None, nested: bool = False, aliases: Aliases = _NO_ALIASES
) -> Iterator[Option]:
    """Yield the options of a command's dataclass, or of one of its sections.

    Args:
        base: an instance that holds the defaults; None: those of the class.
        nested: cls is a section. Its booleans take True or False; those of a command are flags.
        aliases: short flags of fields in sections.
    """
    docs, hints = field_docs(cls), typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        value = _default_of(field) if base is None else getattr(base, field.name)
        extras: list[Any] = list(getattr(hints[field.name], "__metadata__", ()))
        plain = typing.get_args(hints[field.name])[0] if extras else hints[field.name]
        metavar, text = None, docs.get(field.name, "")
        if dataclasses.is_dataclass(plain):
            text = (inspect.getdoc(plain) or "").partition("\n")[0]
        elif plain is bool and nested:
            metavar = "True|False"
            extras.append(tyro.conf.FlagConversionOff)
        elif plain is bool:
            extras += [] if value else [tyro.conf.FlagCreatePairsOff]
        else:
            named = [extra.metavar for extra in extras if getattr(extra, "metavar", None)]
            metavar = named[0] if named else _metavar(field.name, plain)
            extras += [_SIZE] if metavar == "SIZE" else []
        is_off = value is tyro.MISSING or value in (None, (), "") or (value is False and not nested)
        shown = "" if is_off or metavar is None else _show(value, metavar)
        hint = f"(default: {shown})" if shown else ""
        short = aliases.get((cls, field.name))
        flags = None if short is None else (short,)
        name = field.name if nested else field.name.removeprefix("n_")
        own = tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint=hint, aliases=flags)
        extras.insert(0, own)
        kind = Annotated[(plain, *extras)]  # type: ignore[valid-type]
        yield Option(field.name, name, kind, value, metavar, text, shown)


def _default_of(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


def _metavar(name: str, kind: Any) -> str:
    """Return the placeholder of a value in help texts."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(map(str, inside))
    if origin in (typing.Union, types.UnionType):
        return "|".join(_metavar(name, part) for part in inside if part is not type(None))
    if origin is tuple:
        parts = [_metavar(name, part) for part in inside if part is not Ellipsis]
        return " ".join(parts) + ("..." if Ellipsis in inside else "")
    if kind is str and name in _FOLDERS:
        return "DIR"
    if kind is str and name in _FILES:
        return "FILE"
    return "SIZE" if kind is int and name.endswith("_bytes") else _METAVARS.get(kind, "VALUE")


_SIZE = PrimitiveConstructorSpec(
    nargs=1,
    metavar="SIZE",
    instance_from_str=lambda words: None if words == ["None"] else parse_bytes(words[0]),
    is_instance=lambda value: value is None or isinstance(value, int),
    str_from_instance=lambda value: [str(value)],
)


def _show(value: Any, metavar: str | None) -> str:
    if metavar == "SIZE":
        return format_bytes(value).replace(" ", "")
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def parse(
    cls: type[T],
    argv: Sequence[str],
    command: str,
    description: str = "",
    base: T | None = None,
    aliases: Aliases = _NO_ALIASES,
) -> T:
    """Read options into a dataclass. `--a.b 1` and `--a.b=1`, `-` and `_` are the same.

    Exits with code 2 and the nearest known option on a mistake, with 0 after `--help`.

    Args:
        description: of the command; empty: the docstring of the dataclass.
        base: an instance whose values are the defaults.
        aliases: short flags of fields in sections.

    Raises:
        ConfigError: an option has been replaced by another one.
    """
    for name in (word.partition("=")[0] for word in argv if issubclass(cls, CheckpointOptions)):
        if name in _REPLACED:
            raise ConfigError(f"{name} is no longer an option", fix=f"use {_REPLACED[name]}")
    registry = tyro.constructors.ConstructorRegistry()

    @registry.struct_rule
    def _(info: tyro.constructors.StructTypeInfo) -> StructConstructorSpec | None:
        if not dataclasses.is_dataclass(info.type):
            return None
        filled = info.default if isinstance(info.default, info.type) else None
        options = options_of(info.type, filled, info.type is not cls, aliases)
        fields = (StructFieldSpec(o.name, o.kind, o.value, o.text) for o in options)
        return StructConstructorSpec(info.type, tuple(fields))

    return tyro.cli(
        cls,
        prog=f"ladderlm {command}",
        description=description or inspect.getdoc(cls),
        args=list(argv),
        default=tyro.MISSING_NONPROP if base is None else base,
        config=(tyro.conf.AvoidSubcommands,),
        registry=registry,
    )


def parse_part(text: str) -> tuple[int, int]:
    """Read "i/n".

    Raises:
        ConfigError: the text has another form.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise ConfigError(f"--part must have the form i/n, got {text!r}", fix="write --part 1/4")
    return int(match[1]), int(match[2])


def to_argv(options: Any) -> list[str]:
    """Return the words that `parse` reads back as these options; defaults are left out."""
    words: list[str] = []
    for option in options_of(type(options)):
        value = getattr(options, option.name)
        if option.is_positional:
            words += map(str, value)
        elif value != option.value:
            flag = "--" + option.flag.replace("_", "-")
            words += [flag] if value is True else [flag, str(value)]
    return words


def print_json(value: Any) -> None:
    """Print one strict JSON document to standard output."""
    print(to_json(value))


@contextlib.contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Progress]:
    """Show a bar on a terminal, and a plain line every few seconds elsewhere."""
    if not sys.stderr.isatty():
        yield _PlainProgress(label, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, note="")

        def report(done: int, note: str = "") -> None:
            bar.update(task, completed=done, note=note)

        yield report


@contextlib.contextmanager
def training_bar(n_steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show the progress of a run; yield a function that takes its rows of metrics."""
    with progress_bar("steps", n_steps) as bar:

        def observe(row: Mapping[str, Any]) -> None:
            bits = f" {row['bits_per_byte']:.3f} bits/byte" if "bits_per_byte" in row else ""
            bar(row["step"], f"{row['kind']} loss {row['loss']:.3f}{bits}")

        yield observe


class _PlainProgress:
    """Line of progress, printed at most every five seconds."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.last = label, total, time.monotonic()

    def __call__(self, done: int, note: str = "") -> None:
        if time.monotonic() - self.last < 5.0:
            return
        self.last = time.monotonic()
        share = f" of {self.total:,}" if self.total else ""
        print(f"{self.label}: {done:,}{share} {note}".rstrip(), file=sys.stderr, flush=True)
