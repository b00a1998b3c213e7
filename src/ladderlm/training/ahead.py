"""The next batch, made while the current one is trained on.

Owns one background thread. What it makes is a pure function of the step, so nothing of it is
state: a run that is stopped loses only a batch that it can make again.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")


class Ahead(Generic[T]):
    """Call `make(step)` one step ahead of its use.

    Args:
        make: a pure function of the step.
        n_steps: steps 0 .. n_steps - 1 exist.
    """

    def __init__(self, make: Callable[[int], T], n_steps: int) -> None:
        self._make, self._n_steps = make, n_steps
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: dict[int, Future[T]] = {}

    def take(self, step: int) -> tuple[T, float]:
        """Give the value of a step and the seconds that were waited for it.

        Raises:
            Whatever `make` raised for this step.
        """
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
