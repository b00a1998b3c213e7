"""What a fit is asked for.

Owns the options of `fit`, with their defaults.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.errors import DataError

__all__ = ["FitOptions"]


@dataclass(frozen=True)
class FitOptions:
    """Fit a scaling law to a table of results."""

    form: Literal[
        "power", "quadratic", "chinchilla", "overtraining", "isoflop", "powerlaw-nd", "joint"
    ] = "power"
    """L in C; ln L in ln C; in N and D; with over-training; optima at equal compute; a power law of
    any column; variants as the baseline with more compute."""
    loss: str = "loss"
    """Column to be explained."""
    x_column: tuple[str, ...] = ()
    """Column of compute (default: flops); for powerlaw-nd one or more (default: params tokens)."""
    map: tuple[str, ...] = ()
    """Names of other columns, as in params=params_nonembed."""
    where: tuple[str, ...] = ()
    """Rows to look at, as in size=small|large,loss<9. All clauses must hold."""
    fit_on: tuple[str, ...] = ()
    """Rows to fit, of those: any clause may hold. The others are predicted. Default: all."""
    objective: Literal["huber", "least-squares"] = "huber"
    """Huber on ln L, or squares of L; the other one is reported beside it."""
    baseline: str | None = None
    """Arm that the others are compared with (joint). Default: the first row's."""
    optimum: str | None = None
    """For powerlaw-nd: keep, for every x, only rows near the smallest value of this column."""
    within: float = 0.0025
    """How near, as a share of that value."""
    draws: int = 1000
    """Bootstrap draws."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise DataError(
                f"draws = {self.draws}", "a 95 % interval of fewer is noise", "use 500 or more"
            )
        if not 0 < self.within < 1:
            raise DataError(f"within = {self.within}", "it is a share, such as 0.0025")
