"""Owns the result of a fit, which has the same fields for every form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["VERSION", "Fit"]

VERSION = 1  # of the procedure, written into every card


@dataclass(frozen=True)
class Fit:
    """A fitted law and the checks of its reliability.

    Args:
        parameters: under the chosen objective.
        intervals: 95 %, of each parameter.
        objective: its name and value, and the parameters under the other objective.
        identified: whether the points identify E, and why; {} without E.
        excluded: number of rows left out, by reason.
        holdout: predictions of rows that were not fitted.
        details: results of this form only (profile, leave-one-rung-out, optima, comparisons, ...).
        rows: fitted rows with their predictions.
        card: form, loss, starts, numbers of rows and the version of the procedure.
    """

    form: str
    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    objective: dict[str, Any]
    identified: dict[str, Any]
    n_used: int
    excluded: dict[str, int]
    holdout: list[dict[str, Any]]
    warnings: list[str]
    card: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the details last."""
        return {**{k: v for k, v in vars(self).items() if k != "details"}, **self.details}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Fit":
        """Read what `to_json` returned."""
        own = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**own, details={k: v for k, v in values.items() if k not in own})
