"""The analysis of a study's table: everything of `fits.json`, as typed values.

Owns `Fits` and its parts. How they are found is in `analysis.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ladderlm.scaling.compare import Comparison, Estimate
from ladderlm.scaling.joint import LadderLaw
from ladderlm.study.baseline import BestSizes, SeedNoise
from ladderlm.study.documents import DocumentInterval
from ladderlm.study.forecast import ForecastScore, StoredForecast
from ladderlm.study.records import (
    IN_MEMORY,
    WHEN_KNOWN,
    NoAnswer,
    NotebookTable,
    fields_to_json,
    parse_record,
)
from ladderlm.study.search import SearchResult
from ladderlm.study.tuning import Tuning
from ladderlm.study.verdict import Verdict

__all__ = ["AxisFit", "FitCard", "Fits", "HoldoutCheck", "SubsetEstimate", "Unjudged", "VariantFit"]


@dataclass(frozen=True)
class FitCard:
    """The choices that decide a law's numbers; see `scaling.joint.fit_card`."""

    form: str
    floor: str
    trend: str
    loss: str
    optimizer: str
    starts: int
    weights: str
    branches: tuple[float, ...]
    n_used: int
    n_cells: int
    degrees_of_freedom: int
    rungs: tuple[int, ...]
    compute_range: tuple[float, ...]
    excluded: Mapping[str, str]
    version: int


@dataclass(frozen=True)
class HoldoutCheck:
    """The mean loss of an arm on a held-out rung, compared with the law of the lower rungs."""

    arm: str
    rung: int
    branch: float
    n_runs: int
    x: float
    predicted: float
    actual: float
    relative_error: float
    sigma: float
    passed: bool


@dataclass(frozen=True)
class SubsetEstimate(Estimate):
    """The pooled multiplier on one subset of the validation text.

    Args:
        p_holm: p value by Holm's rule over the subsets; None where no test could be made.
    """

    p_holm: float | None = None


@dataclass(frozen=True)
class VariantFit:
    """A variant that could be compared with the baseline.

    Args:
        comparison: over training FLOPs.
        at_equal_device_seconds, at_equal_tokens: over these instead.
        lengths: pooled multiplier of the runs of each length alone; {} with a single length.
        subsets: of the validation text, by name.
        documents: None without a folder of runs to read their losses from.
    """

    variant: str
    comparison: Comparison
    verdict: Verdict
    at_equal_device_seconds: Comparison | NoAnswer
    at_equal_tokens: Comparison | NoAnswer
    lengths: Mapping[str, Estimate | NoAnswer] = field(default_factory=dict)
    subsets: Mapping[str, SubsetEstimate] = field(default_factory=dict)
    documents: DocumentInterval | NoAnswer | None = field(default=None, metadata=WHEN_KNOWN)


@dataclass(frozen=True)
class Unjudged:
    """A variant that could not be compared, with the reason."""

    variant: str
    problem: str


@dataclass(frozen=True)
class AxisFit:
    """The law of all arms, and every comparison that could be made, over one axis.

    Args:
        law, card: None with too few points, which `problem` explains.
        comparisons: by variant.
    """

    law: LadderLaw | None
    card: FitCard | None
    problem: str | None
    comparisons: Mapping[str, Comparison | NoAnswer]


@dataclass(frozen=True, kw_only=True, repr=False)
class Fits(NotebookTable):
    """The analysis of a study's table.

    Args:
        study: its name.
        loss: the fitted column.
        excluded: why runs of the ladder are not compared, by run id.
        incomparable_times: why the device times of runs are not compared, by run id.
        problem: why there is no law; None if there is one.
        law: of all arms over training FLOPs.
        holdout: None if no rung was held out, or its forecast could not be made.
        axes: the fits over training FLOPs (`flops`), device time (`device_seconds`) and `tokens`.
            They follow from the table and are not stored: `from_json` returns none.
    """

    study: str
    loss: str = "bits_per_byte"
    excluded: Mapping[str, str] = field(default_factory=dict)
    incomparable_times: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = field(default=None, metadata=WHEN_KNOWN)
    law: LadderLaw | None = field(default=None, metadata=WHEN_KNOWN)
    card: FitCard | None = field(default=None, metadata=WHEN_KNOWN)
    holdout: tuple[HoldoutCheck, ...] | None = None
    variants: tuple[VariantFit | Unjudged, ...] = ()
    forecast: StoredForecast | None = None
    noise: SeedNoise | None = None
    isoflop: BestSizes | NoAnswer | None = None
    tuning: tuple[Tuning, ...] = ()
    forecast_score: tuple[ForecastScore, ...] = ()
    search: SearchResult | None = field(default=None, metadata=WHEN_KNOWN)
    axes: Mapping[str, AxisFit] = field(default_factory=dict, metadata=IN_MEMORY)

    def __repr__(self) -> str:
        """Return the verdicts, one per line."""
        lines = [self.problem] if self.problem else []
        for found in self.variants:
            if isinstance(found, Unjudged):
                lines.append(f"{found.variant}: {found.problem.splitlines()[0]}")
                continue
            m = found.comparison.pooled
            interval = f"m = {m.value:.3f} (95 % {m.low_95:.3f} to {m.high_95:.3f})"
            lines.append(f"{found.variant}: {found.verdict.text}, {interval}")
        return f"Fits of {self.study}\n" + "\n".join(f"  {line}" for line in lines)

    def table_rows(self) -> list[dict[str, object]]:
        """Return the verdict and pooled multiplier of each variant that was compared."""
        return [
            {"variant": v.variant, "verdict": v.verdict.text, "m": v.comparison.pooled.value}
            | {"low_95": v.comparison.pooled.low_95, "high_95": v.comparison.pooled.high_95}
            for v in self.judged
        ]

    @property
    def judged(self) -> tuple[VariantFit, ...]:
        """The variants that could be compared."""
        return tuple(v for v in self.variants if isinstance(v, VariantFit))

    def to_json(self) -> dict[str, Any]:
        """Return the content of `fits.json`, without a hold-out where there is no law."""
        values: dict[str, Any] = fields_to_json(self)
        if self.problem is not None:
            del values["holdout"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Fits":
        """Read back what `to_json` returned."""
        return parse_record(cls, values)
