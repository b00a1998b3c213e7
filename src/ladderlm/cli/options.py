"""Command-line options out of dataclasses.

Owns the one way in which commands read their arguments (tyro) and print progress.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

__all__ = ["parse", "print_json", "progress_bar"]

T = TypeVar("T")


def parse(
    cls: type[T], argv: Sequence[str], command: str, description: str, default: T | None = None
) -> T:
    """Read options into a dataclass; `--a.b 1`, `--a.b=1`, `-` and `_` are all understood.

    Exits with code 2 and the nearest known option on a mistake, with 0 after `--help`.
    """
    import tyro

    return tyro.cli(
        cls,
        prog=f"ladderlm {command}",
        description=description,
        args=list(argv),
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.FlagConversionOff, tyro.conf.HelptextFromCommentsOff)
        if False
        else (tyro.conf.AvoidSubcommands,),
    )


def print_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


@contextlib.contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """Show progress: a bar on a terminal, a plain line now and then otherwise.

    Gives a function to call with (done so far, a short note).
    """
    if sys.stderr.isatty():
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"))
        times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, *times, transient=False) as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=note)
        return
    yield _plain_progress(label, total)


def _plain_progress(label: str, total: int | None) -> Callable[[int, str], None]:
    """Print a line at most every 5 seconds."""
    import time

    last = time.monotonic()

    def report(done: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= 5.0:
            last = time.monotonic()
            share = f" of {total:,}" if total else ""
            print(f"{label}: {done:,}{share} {note}".rstrip(), file=sys.stderr, flush=True)

    return report
