"""Sums that travel, means that are taken once at the end.

Owns `LossSum`, the one way in which losses are added over micro-batches, ranks and documents.
"""

import math
from dataclasses import dataclass

__all__ = ["LN_2", "LossSum", "bits_per_byte"]

LN_2 = math.log(2.0)


@dataclass(frozen=True)
class LossSum:
    """Nats of a number of scored tokens; adds exactly, divides late.

    Args:
        nats: sum of negative log-likelihoods, float64.
        n_tokens: how many tokens were scored.
    """

    nats: float = 0.0
    n_tokens: int = 0

    def __add__(self, other: "LossSum") -> "LossSum":
        return LossSum(self.nats + other.nats, self.n_tokens + other.n_tokens)

    @property
    def mean(self) -> float:
        """Nats per token; NaN when nothing was scored."""
        return self.nats / self.n_tokens if self.n_tokens else math.nan


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Give nats / (ln 2 x bytes): tokenizer-free compression of the raw UTF-8 text.

    Source: Gao et al. 2020 (The Pile), section 3.1, with exact byte counts per document. NaN for
    zero bytes.
    """
    return nats / (LN_2 * n_bytes) if n_bytes else math.nan
