"""The spread of the baseline's seeds, and its best size at equal compute.

Owns the choice of rows for both; the fits are in `scaling/`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import chi2

from ladderlm.errors import DataError
from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.fit import fit_points
from ladderlm.scaling.isoflop import Bowl
from ladderlm.scaling.result import Fit
from ladderlm.study.records import NoAnswer
from ladderlm.study.results import Results

__all__ = ["BestSizes", "SeedNoise", "fit_best_sizes", "measure_seed_noise"]


@dataclass(frozen=True)
class SeedNoise:
    """Sd of ln bits per byte over seeds, with its interval by the chi-square law of a variance."""

    n_seeds: int
    sd: float
    interval_95: tuple[float, ...]


def measure_seed_noise(results: Results, baseline: str) -> SeedNoise | None:
    """Measure the spread of the smallest baseline's runs; None with fewer than three runs."""
    losses = {
        row.run_id: math.log(row.known_bits_per_byte)
        for row in results
        if (row.arm, row.rung) == (baseline, 0)
        and row.role in ("ladder", "noise")
        and row.known_bits_per_byte < math.inf
    }
    n = len(losses)
    if n < 3:
        return None
    sd = statistics.stdev(losses.values())
    low, high = (sd * math.sqrt((n - 1) / chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    return SeedNoise(n, sd, (float(low), float(high)))


@dataclass(frozen=True)
class BestSizes:
    """An isoflop fit of the baseline, and its bowls."""

    fit: Fit
    bowls: tuple[Bowl, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `ladderlm fit`, with tokens per parameter at the optima."""
        return self.fit.to_json() | {"bowls": [bowl.to_json() for bowl in self.bowls]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "BestSizes":
        """Read back what `to_json` returned."""
        return cls(Fit.from_json(values), tuple(map(Bowl.from_json, values["bowls"])))


def fit_best_sizes(
    results: Results, baseline: str, budgets: Sequence[float]
) -> BestSizes | NoAnswer | None:
    """Fit the bowls of the baseline's sizes at equal compute; None if no such runs were planned."""
    sized = {(row.rung, row.seed) for row in results if row.role == "isoflop"}
    if not sized:
        return None
    own = [
        row
        for row in results
        if row.arm == baseline
        and (row.rung, row.seed) in sized
        and row.role in ("ladder", "isoflop")
        and row.known_bits_per_byte < math.inf
    ]
    columns: dict[str, list[object]] = {
        "params": [row.params for row in own],
        "tokens": [row.tokens for row in own],
        "flops": [budgets[row.rung] for row in own],  # each is met to one step
        "loss": [row.bits_per_byte for row in own],
    }
    try:
        found = fit_points(columns, FitOptions(form="isoflop"))
    except DataError as error:
        return NoAnswer(str(error))
    bowls = tuple(Bowl.from_json(bowl).with_ratio() for bowl in found.details["bowls"])
    return BestSizes(found, bowls)
