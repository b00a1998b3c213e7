"""Which job starts next on a machine, and which must wait.

Owns the queue and the room that is left; knows no process and no clock, so that a plan can follow
the very rules by which its runs will be started.
"""

import bisect
from collections.abc import Collection

from ladderlm.executors.base import Resources

__all__ = ["Packing"]


class Packing:
    """Jobs that wait, by rank and then by arrival, and those that share a machine now.

    The first that waits starts when its threads, memory and GPUs fit next to those that run; one
    that is larger than the machine runs alone. Nobody overtakes: a large job is not starved.

    Args:
        n_threads: cores to fill.
        memory_bytes: memory to fill.
        n_devices: GPUs to share out, whole.
    """

    def __init__(self, n_threads: int, memory_bytes: float, n_devices: int) -> None:
        self._whole = (n_threads, memory_bytes, n_devices)
        self._queue: list[tuple[tuple[float, ...], int, str, Resources]] = []
        self._running: dict[str, Resources] = {}
        self._n_added = 0

    def add(self, name: str, needs: Resources, rank: tuple[float, ...] = ()) -> None:
        """Let a job wait; those of lower rank start first."""
        self._n_added += 1
        bisect.insort(self._queue, (rank, self._n_added, name, needs))

    def start(self) -> str | None:
        """Take the first that waits, if there is room for it; return its name."""
        if not self._queue or not self._fits(self._queue[0][3]):
            return None
        _, _, name, self._running[name] = self._queue.pop(0)
        return name

    def _fits(self, needs: Resources) -> bool:
        used = [_amounts(running) for running in self._running.values()]
        sums = map(sum, zip(_amounts(needs), *used, strict=True))
        return not used or all(n <= most for n, most in zip(sums, self._whole, strict=True))

    def end(self, name: str) -> None:
        """Return back what a job held."""
        del self._running[name]

    def drop(self, names: Collection[str]) -> None:
        """Take jobs off the queue."""
        self._queue = [entry for entry in self._queue if entry[2] not in names]


def _amounts(needs: Resources) -> tuple[int, int, int]:
    return needs.n_threads, needs.memory_bytes, needs.n_devices
