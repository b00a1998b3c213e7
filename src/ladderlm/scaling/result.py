"""Owns the result of a fit, which has the same fields for every form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["VERSION", "Fit"]

VERSION = 1  # of the procedure, written into every card


@dataclass(frozen=True)
class Fit:
    """A fitted law and the checks of its reliability.

    `details` are results of one form only: profile, leave-one-rung-out, optima, comparisons, ...
    """

    form: str
    parameters: dict[str, float]  # under the chosen objective
    intervals: dict[str, tuple[float, float]]  # 95 %, of each parameter
    objective: dict[str, Any]  # name and value, and the parameters under the other objective
    identified: dict[str, Any]  # whether the points identify E, and why; {} without E
    n_used: int
    excluded: dict[str, int]  # number of rows left out, by reason
    holdout: list[dict[str, Any]]  # predictions of rows that were not fitted
    warnings: list[str]
    card: dict[str, Any]  # form, loss, starts, numbers of rows and the version of the procedure
    details: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)  # fitted rows with predictions

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the details last."""
        return {**{k: v for k, v in vars(self).items() if k != "details"}, **self.details}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Fit":
        """Read what `to_json` returned."""
        own = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**own, details={k: v for k, v in values.items() if k not in own})
