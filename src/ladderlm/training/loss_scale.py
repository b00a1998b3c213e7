"""The factor on a half-precision loss that keeps its gradients out of the underflow.

Owns when it rises and falls. It is state of the run: a resumed run goes on with the same factor.
"""

from dataclasses import dataclass

__all__ = ["LossScale"]

GROWTH_STEPS = 2000
LARGEST = 2.0**24


@dataclass
class LossScale:
    """Double after 2,000 good updates in a row, halve after an overflow; always a power of two.

    Source: Micikevicius et al. 2018 (1710.03740), section 3.2, with the constants of PyTorch's
    `GradScaler`. A power of two scales float32 gradients back without rounding.

    Args:
        value: the factor now.
        n_good: updates since it last changed.
        n_skipped: updates left out so far because a gradient overflowed.
    """

    value: float = 2.0**16
    n_good: int = 0
    n_skipped: int = 0

    def note_good(self) -> None:
        """Take note of an update whose gradients were finite."""
        self.n_good += 1
        if self.n_good == GROWTH_STEPS:
            self.value, self.n_good = min(2 * self.value, LARGEST), 0

    def skip(self) -> bool:
        """Take note of an overflow; False if the scale cannot be the reason: it is 1 already."""
        if self.value <= 1:
            return False
        self.value, self.n_good, self.n_skipped = self.value / 2, 0, self.n_skipped + 1
        return True
