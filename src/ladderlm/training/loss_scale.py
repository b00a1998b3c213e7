"""The factor on a half-precision loss that keeps its gradients from underflowing.

Owns when it rises and falls. It belongs to the run's state: a resumed run keeps the factor.
"""

from dataclasses import dataclass

__all__ = ["LossScale"]

GROWTH_STEPS = 2000
LARGEST = 2.0**24


@dataclass
class LossScale:
    """A factor that doubles after 2,000 good updates in a row and halves after an overflow.

    Source: Micikevicius et al. 2018 (1710.03740), section 3.2, with the constants of PyTorch's
    `GradScaler`. As a power of two it scales float32 gradients back without rounding.
    """

    value: float = 2.0**16
    n_good: int = 0  # updates since the value last changed
    n_skipped: int = 0  # updates skipped so far because a gradient overflowed

    def note_good(self) -> None:
        """Count an update whose gradients were finite."""
        self.n_good += 1
        if self.n_good == GROWTH_STEPS:
            self.value, self.n_good = min(2 * self.value, LARGEST), 0

    def skip(self) -> bool:
        """Count an overflow; return False if the scale cannot be its cause because it is 1."""
        if self.value <= 1:
            return False
        self.value, self.n_good, self.n_skipped = self.value / 2, 0, self.n_skipped + 1
        return True
