"""Follow and stop a long computation from outside.

Owns `Watch`, which every loop over windows, documents or texts takes.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["UNWATCHED", "Watch"]


@dataclass(frozen=True)
class Watch:
    """Functions that are called while a computation runs.

    Args:
        check: called before each piece of work; raises to stop early.
        progress: called with (pieces done, pieces in all) after each piece.
    """

    check: Callable[[], None] = lambda: None
    progress: Callable[[int, int], None] = lambda done, total: None


UNWATCHED = Watch()
