"""Call a function for many items in a few threads, and end at once on an interrupt."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["run_in_threads"]

T = TypeVar("T")
GRACE_SECONDS = 2.0


def run_in_threads(
    work: Callable[[T], object], items: Sequence[T], n_threads: int, stop: threading.Event
) -> None:
    """Call `work` for each item, in order, `n_threads` at a time.

    The threads do not keep the process alive: an interrupt ends it even while a server is silent.

    Args:
        stop: set when the other threads should end; `work` checks it.

    Raises:
        Exception: the first that `work` raised; the other threads are stopped.
    """
    waiting, errors = deque(items), list[BaseException]()

    def serve() -> None:
        while not stop.is_set():
            try:
                item = waiting.popleft()  # atomic
            except IndexError:
                return
            try:
                work(item)
            except BaseException as error:
                errors.append(error)
                stop.set()

    threads = [
        threading.Thread(target=serve, daemon=True) for _ in range(min(n_threads, len(items)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)  # short, so that an interrupt by the user is noticed
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join(GRACE_SECONDS / len(threads))
        raise
    if errors:
        raise errors[0]
