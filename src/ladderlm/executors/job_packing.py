"""Decide which job starts next on a machine and which ones wait.

Owns the queue and the resources that are left. Knows no process and no clock, so that a plan
follows the same rules by which its runs will be started.
"""

import bisect
from collections.abc import Collection

from ladderlm.executors.base import Resources

__all__ = ["Packing"]


class Packing:
    """Queue of waiting jobs, by rank and then by arrival, and the jobs that run on a machine now.

    The first waiting job starts when its threads, memory and GPUs are available. One that is
    larger than the machine runs alone. Later jobs do not overtake it, so it cannot starve.
    """

    def __init__(self, n_threads: int, memory_bytes: float, n_devices: int) -> None:
        self._whole = (n_threads, memory_bytes, n_devices)
        self._queue: list[tuple[tuple[float, ...], int, str, Resources]] = []
        self._running: dict[str, Resources] = {}
        self._n_added = 0

    def add(self, name: str, needs: Resources, rank: tuple[float, ...] = ()) -> None:
        """Queue a job; lower ranks start first."""
        self._n_added += 1
        bisect.insort(self._queue, (rank, self._n_added, name, needs))

    def start(self) -> str | None:
        """Start the first waiting job and return its name, or None if it does not fit yet."""
        if not self._queue or not self._fits(self._queue[0][3]):
            return None
        _, _, name, self._running[name] = self._queue.pop(0)
        return name

    def _fits(self, needs: Resources) -> bool:
        used = [_amounts(running) for running in self._running.values()]
        sums = map(sum, zip(_amounts(needs), *used, strict=True))
        return not used or all(n <= most for n, most in zip(sums, self._whole, strict=True))

    def end(self, name: str) -> None:
        """Free the resources of a job that has ended."""
        del self._running[name]

    def drop(self, names: Collection[str]) -> None:
        """Remove jobs from the queue."""
        self._queue = [entry for entry in self._queue if entry[2] not in names]


def _amounts(needs: Resources) -> tuple[int, int, int]:
    return needs.n_threads, needs.memory_bytes, needs.n_devices
