"""Show the progress of downloads: bars on a terminal, a plain line every few seconds elsewhere.

Owns speed and remaining time, counted from what this process has seen arrive.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ladderlm.units import format_bytes, format_seconds

__all__ = ["Transfers", "show_transfers"]

SECONDS_BETWEEN_LINES = 5.0
Callbacks = tuple[Callable[[str, int, int | None], None], Callable[[str], None]]


@dataclass
class Transfers:
    """Progress of each file.

    Args:
        now: clock in seconds.
    """

    now: Callable[[], float] = time.monotonic
    _files: dict[str, tuple[int, int, int | None]] = field(default_factory=dict)
    _began: float | None = None

    def update(self, name: str, done: int, total: int | None) -> None:
        """Record the bytes of a file that are there, and all its bytes if they are known."""
        if self._began is None:
            self._began = self.now()
        first = self._files.get(name, (done, 0, None))[0]
        self._files[name] = (min(first, done), done, total)

    def line(self) -> str:
        """Return one line about all files: bytes, speed, time left, files done."""
        done = sum(at for _, at, _ in self._files.values())
        totals = [total for _, _, total in self._files.values()]
        seconds = self.now() - (self.now() if self._began is None else self._began)
        arrived = sum(at - first for first, at, _ in self._files.values())
        words = [format_bytes(done)]
        speed = arrived / seconds if seconds > 0 else 0.0
        if None not in totals:
            total = sum(total for total in totals if total is not None)
            words[0] += f" of {format_bytes(total)}"
            if speed:
                words.append(f"{format_seconds(max(total - done, 0) / speed)} left")
        if speed:
            words.insert(1, f"{format_bytes(speed)}/s")
        n_done = sum(total is not None and at >= total for _, at, total in self._files.values())
        if len(self._files) > 1:
            words.append(f"{n_done} of {len(self._files)} files done")
        return ", ".join(words)


@contextlib.contextmanager
def show_transfers() -> Iterator[Callbacks]:
    """Yield callbacks for progress (name, bytes, total) and for lines; any thread may call them."""
    if sys.stderr.isatty():
        with _bars() as pair:
            yield pair
        return
    transfers, lock = Transfers(), threading.Lock()
    last = time.monotonic()

    def progress(name: str, done: int, total: int | None) -> None:
        nonlocal last
        with lock:
            transfers.update(name, done, total)
            if time.monotonic() - last < SECONDS_BETWEEN_LINES:
                return
            last = time.monotonic()
            line = transfers.line()
        say(f"fetch: {line}")

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    yield progress, say


@contextlib.contextmanager
def _bars() -> Iterator[Callbacks]:
    """Show a bar for each file, with speed and remaining time."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}
        lock = threading.Lock()

        def progress(name: str, done: int, total: int | None) -> None:
            with lock:
                if name not in tasks:  # starts at what is there already, for the right speed
                    tasks[name] = bars.add_task(name, total=total, completed=done)
            bars.update(tasks[name], completed=done, total=total)

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False)

        yield progress, say
