"""Do one thing for many items with a few threads, and leave at once when it must end."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["run_in_threads"]

T = TypeVar("T")
GRACE_SECONDS = 2.0


def run_in_threads(
    work: Callable[[T], object], items: Sequence[T], n_threads: int, stop: threading.Event
) -> None:
    """Call `work` for each item, in order, a few at a time.

    The threads do not keep the process alive: an interrupt ends it though a server is silent.

    Args:
        stop: set when the others should give up; `work` looks at it.

    Raises:
        Exception: the first that `work` raised; the others are stopped.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    errors: list[BaseException] = []

    def serve() -> None:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
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
                thread.join(0.1)  # short, so that the interrupt of a user is heard
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join(GRACE_SECONDS / len(threads))
        raise
    if errors:
        raise errors[0]
