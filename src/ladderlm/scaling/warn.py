"""Owns the warnings that come from a table and from the comparison of two objectives."""

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.scaling.table import Table

__all__ = ["find_confounds", "warn_of_fit"]

Array = NDArray[np.float64]
TIED = 0.9  # correlation of logarithms above which two causes are confounded


def find_confounds(table: Table, fitted: NDArray[np.bool_]) -> list[str]:
    """Warn of a batch correlated with size, and of held-out rows outside the fitted batches."""
    found: list[str] = []
    size = next((name for name in ("params", "flops") if name in table), None)
    for name in table.columns:
        if "batch" not in name or size is None:
            continue
        try:
            batch, sizes = np.log(table.numbers(name)), np.log(table.numbers(size))
        except DataError:
            continue
        if batch[fitted].std() > 0 and sizes[fitted].std() > 0:
            tied = float(np.corrcoef(batch[fitted], sizes[fitted])[0, 1])
            if abs(tied) > TIED:
                found.append(
                    f"{name} moves with {size} (correlation of logarithms {tied:.2f}): what the "
                    "batch does cannot be told from what size does"
                )
        low, high = np.exp(batch[fitted].min()), np.exp(batch[fitted].max())
        outside = ~fitted & ((batch < np.log(low) - 0.01) | (batch > np.log(high) + 0.01))
        if outside.any():
            found.append(
                f"{int(outside.sum())} rows that are predicted have {name} outside of the fitted "
                f"{low:.3g} to {high:.3g}: an error there may be the batch's"
            )
    return found


def warn_of_fit(
    parameters: dict[str, float],
    other: dict[str, float],
    intervals: dict[str, tuple[float, float]],
    other_name: str,
    columns: dict[str, Array],
    fitted: NDArray[np.bool_],
) -> list[str]:
    """Warn of objectives that disagree, short ranges and correlated columns."""
    found = []
    apart = [
        f"{name} {parameters[name]:.4g} and {other[name]:.4g}"
        for name, (low, high) in intervals.items()
        if abs(other[name] - parameters[name]) > high - low
    ]
    if apart:
        found.append(f"{other_name} differs by more than the interval: {', '.join(apart)}")
    if "flops" in columns:
        flops = columns["flops"][fitted]
        span = float(flops.max() / flops.min())
        if span < 10:
            found.append(f"the rows span {span:.1f}x of compute: less than a decade")
    if {"params", "tokens"} <= set(columns):
        n, d = np.log(columns["params"][fitted]), np.log(columns["tokens"][fitted])
        if n.std() > 0 and d.std() > 0 and abs(np.corrcoef(n, d)[0, 1]) > 0.99:
            found.append("params and tokens move together: their exponents cannot be told apart")
    return found
