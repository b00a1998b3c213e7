"""How a long computation is followed and stopped from outside.

Owns `Watch`, which every loop over windows, documents or texts takes.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["UNWATCHED", "Watch"]


def _permit() -> None:
    """Let the work continue."""


def _ignore(done: int, total: int) -> None:
    """Drop the report."""


@dataclass(frozen=True)
class Watch:
    """What is called while a computation runs.

    Args:
        check: called before each piece of work; raises to stop early.
        progress: called with (pieces done, pieces in all) after each piece.
    """

    check: Callable[[], None] = _permit
    progress: Callable[[int, int], None] = _ignore


UNWATCHED = Watch()
