"""The next batch, made during training on the current one.

Owns one background thread. A batch is a pure function of the step, so none of this belongs to the
run's state.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")


class Ahead(Generic[T]):
    """Values of `make(step)`, a pure function, computed one step ahead of their use.

    Args:
        n_steps: steps 0 .. n_steps - 1 exist.
    """

    def __init__(self, make: Callable[[int], T], n_steps: int) -> None:
        self._make, self._n_steps = make, n_steps
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: dict[int, Future[T]] = {}

    def take(self, step: int) -> tuple[T, float]:
        """Return the value of a step and the seconds waited for it; raise what `make` raised."""
        began = time.monotonic()
        coming = self._coming.pop(step, None) or self._pool.submit(self._make, step)
        self._coming.clear()
        value = coming.result()
        waited = time.monotonic() - began
        if step + 1 < self._n_steps:
            self._coming[step + 1] = self._pool.submit(self._make, step + 1)
        return value, waited

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
