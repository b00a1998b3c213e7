"""Owns `bits_per_byte`, the unit for comparing models with different tokenizers."""

import math

__all__ = ["LN_2", "bits_per_byte"]

LN_2 = math.log(2.0)


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Return nats / (ln 2 x bytes), the compression of the raw UTF-8 text; NaN for zero bytes.

    Source: Gao et al. 2020 (The Pile), section 3.1, with exact byte counts per document.
    """
    return nats / (LN_2 * n_bytes) if n_bytes else math.nan
