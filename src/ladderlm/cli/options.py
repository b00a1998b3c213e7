"""Command-line options out of dataclasses, and how commands speak.

Owns the one way in which commands read their arguments (tyro), print JSON and show progress.
"""

import contextlib
import dataclasses
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ladderlm.errors import ConfigError
from ladderlm.files import to_json

__all__ = [
    "CheckpointOptions",
    "Progress",
    "check_counts",
    "parse",
    "parse_part",
    "print_json",
    "progress_bar",
    "to_argv",
]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """The option of every command that reads a model from a run."""

    checkpoint: str | None = None
    """Which checkpoint of a run: last, best (lowest validation loss), average (of the weights over
    the run, kept where train.ema_decay is set) or a step. Default: the newest that is not
    damaged."""


class Progress(Protocol):
    """What a progress display is told."""

    def __call__(self, done: int, note: str = "") -> None:
        """Say how much is done, with a short note."""


def check_counts(**options: int | None) -> None:
    """Refuse the first option below 1; None: it was not given.

    Raises:
        ConfigError: names it.
    """
    for name, value in options.items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}", "it is at least 1")


def parse(
    cls: type[T],
    argv: Sequence[str],
    command: str,
    description: str,
    default: T | None = None,
    flags: bool = True,
) -> T:
    """Read options into a dataclass; `--a.b 1`, `--a.b=1`, `-` and `_` are all understood.

    With `flags`, a boolean is set by `--name` alone; without, it takes True or False.
    Exits with code 2 and the nearest known option on a mistake, with 0 after `--help`.
    """
    import tyro

    arguments: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(  # type: ignore[no-any-return]
        cls,
        prog=f"ladderlm {command}",
        description=description,
        args=list(argv),
        config=(tyro.conf.AvoidSubcommands, *(() if flags else (tyro.conf.FlagConversionOff,))),
        **arguments,
    )


def parse_part(text: str) -> tuple[int, int]:
    """Read "i/n".

    Raises:
        ConfigError: it is something else.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise ConfigError(f"--part {text!r}", "a part is named i/n", "for example 1/4")
    return int(match[1]), int(match[2])


def to_argv(options: Any) -> list[str]:
    """Spell options of a command as words that `parse` reads back.

    The first field is the positional one; what stands at its default is left out.
    """
    first, *fields = dataclasses.fields(options)
    words = [str(word) for word in getattr(options, first.name)]
    for field in fields:
        value = getattr(options, field.name)
        if value != field.default:
            flag = "--" + field.name.replace("_", "-")
            words += [flag] if value is True else [flag, str(value)]
    return words


def print_json(value: Any) -> None:
    """Print one strict JSON document to standard output."""
    print(to_json(value))


@contextlib.contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Progress]:
    """Show progress: a bar on a terminal, a plain line now and then otherwise."""
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


class _PlainProgress:
    """Print a line at most every five seconds."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.last = label, total, time.monotonic()

    def __call__(self, done: int, note: str = "") -> None:
        if time.monotonic() - self.last < 5.0:
            return
        self.last = time.monotonic()
        share = f" of {self.total:,}" if self.total else ""
        print(f"{self.label}: {done:,}{share} {note}".rstrip(), file=sys.stderr, flush=True)
