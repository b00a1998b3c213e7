"""Owns the options of `fit`, with their defaults."""

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
    """Law to fit. power: loss in compute. quadratic: log loss in log compute, with curvature.
    chinchilla: loss in parameters and tokens. overtraining: the same with a term for over-training.
    isoflop: best sizes at equal compute. powerlaw-nd: a power law in any columns. joint: each
    variant as the baseline with more compute."""
    loss: str = "loss"
    """Column to explain."""
    x_column: tuple[str, ...] = ()
    """Columns that explain it. Default: flops; for powerlaw-nd params and tokens."""
    map: tuple[str, ...] = ()
    """Names of columns in the file, for example params=params_nonembed."""
    where: tuple[str, ...] = ()
    """Rows to read, for example size=small|large or loss<9. All conditions must hold. Default: all
    rows."""
    fit_on: tuple[str, ...] = ()
    """Rows to fit, of those read. One of the conditions must hold, and the other rows are
    predicted. Default: all rows."""
    objective: Literal["huber", "least-squares"] = "huber"
    """What the fit minimises. huber: the Huber loss of log L. least-squares: squares of L. The
    other one is reported for comparison."""
    baseline: str | None = None
    """Arm that a joint fit compares the others with. Default: the arm of the first row."""
    optimum: str | None = None
    """Column whose smallest value is the optimum at each x, for powerlaw-nd. Only rows near it are
    kept. Default: keep all rows."""
    within: float = 0.0025
    """Largest distance from that smallest value, as a fraction of it."""
    draws: int = 1000
    """Number of bootstrap draws."""
    seed: int = 0
    """Seed of the bootstrap draws."""

    def __post_init__(self) -> None:
        if self.draws < 100:
            what = f"draws must be at least 100, got {self.draws}"
            raise DataError(what, "a 95 % interval of fewer is noise", "use 500 or more")
        if not 0 < self.within < 1:
            what = f"within must be between 0 and 1, got {self.within}"
            raise DataError(what, fix="use a fraction, such as 0.0025")
