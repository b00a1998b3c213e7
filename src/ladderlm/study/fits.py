"""The analysis of a study's table: everything of `fits.json`, as typed values.

Owns `Fits` and its parts. How they are found is in `analysis.py`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ladderlm.scaling.compare import Comparison, Estimate
from ladderlm.scaling.joint import LadderLaw
from ladderlm.study.baseline import BestSizes, SeedNoise
from ladderlm.study.documents import DocumentInterval
from ladderlm.study.forecast import ForecastScore, StoredForecast
from ladderlm.study.records import NoAnswer, parse_record, plain
from ladderlm.study.search import SearchResult
from ladderlm.study.tuning import Tuning
from ladderlm.study.verdict import Verdict

__all__ = ["AxisFit", "FitCard", "Fits", "HoldoutCheck", "SubsetEstimate", "Unjudged", "VariantFit"]


@dataclass(frozen=True)
class FitCard:
    """Everything that decides a law's numbers; see `scaling.joint.fit_card`."""

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
    """An arm's mean on a held-out rung against the law of the rungs below."""

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
        lengths: the pooled multiplier of the runs of each length alone; {} where there is but one.
        subsets: of the validation text, by name.
        documents: None: there was no folder of runs to read their losses from.
    """

    variant: str
    comparison: Comparison
    verdict: Verdict
    at_equal_device_seconds: Comparison | NoAnswer
    at_equal_tokens: Comparison | NoAnswer
    lengths: Mapping[str, Estimate | NoAnswer] = field(default_factory=dict)
    subsets: Mapping[str, SubsetEstimate] = field(default_factory=dict)
    documents: DocumentInterval | NoAnswer | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: plain(v) for name, v in vars(self).items() if (name, v) != _NO_DOCUMENTS}


_NO_DOCUMENTS = ("documents", None)


@dataclass(frozen=True)
class Unjudged:
    """A variant that could not be compared, and why."""

    variant: str
    problem: str


@dataclass(frozen=True)
class AxisFit:
    """The law of all arms, and every comparison that could be made, over one axis.

    Args:
        law, card: None: there are not enough points, as `problem` says.
        comparisons: by variant.
    """

    law: LadderLaw | None
    card: FitCard | None
    problem: str | None
    comparisons: Mapping[str, Comparison | NoAnswer]


@dataclass(frozen=True, kw_only=True, repr=False)
class Fits:
    """The analysis of a study's table.

    Args:
        study: its name.
        loss: what is fitted.
        excluded: runs of the ladder that are not compared, and why.
        incomparable_times: runs whose device time takes no part, and why.
        problem: why there is no law; None: there is one.
        law: of all arms over training FLOPs.
        holdout: None: no rung was held out, or its forecast could not be made.
        axes: the fits over training FLOPs (`flops`), device time (`device_seconds`) and `tokens`.
            They follow from the table and are no part of the JSON, so what `from_json` returns has
            none.
    """

    study: str
    loss: str = "bits_per_byte"
    excluded: Mapping[str, str] = field(default_factory=dict)
    incomparable_times: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    law: LadderLaw | None = None
    card: FitCard | None = None
    holdout: tuple[HoldoutCheck, ...] | None = None
    variants: tuple[VariantFit | Unjudged, ...] = ()
    forecast: StoredForecast | None = None
    noise: SeedNoise | None = None
    isoflop: BestSizes | NoAnswer | None = None
    tuning: tuple[Tuning, ...] = ()
    forecast_score: tuple[ForecastScore, ...] = ()
    search: SearchResult | None = None
    axes: Mapping[str, AxisFit] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the verdicts, a line each."""
        lines = [self.problem] if self.problem else []
        for found in self.variants:
            if isinstance(found, Unjudged):
                lines.append(f"{found.variant}: {found.problem.splitlines()[0]}")
                continue
            m = found.comparison.pooled
            interval = f"m = {m.value:.3f} (95 % {m.low_95:.3f} to {m.high_95:.3f})"
            lines.append(f"{found.variant}: {found.verdict.text}, {interval}")
        return f"Fits of {self.study}\n" + "\n".join(f"  {line}" for line in lines)

    @property
    def judged(self) -> tuple[VariantFit, ...]:
        """The variants that could be compared."""
        return tuple(v for v in self.variants if isinstance(v, VariantFit))

    def to_json(self) -> dict[str, Any]:
        """Return what `fits.json` holds."""
        left_out = {"axes"} | ({"problem"} if self.problem is None else {"law", "card", "holdout"})
        if self.search is None:
            left_out.add("search")
        return {name: plain(v) for name, v in vars(self).items() if name not in left_out}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Fits":
        """Read back what `to_json` returned."""
        variants: list[VariantFit | Unjudged] = [
            parse_record(Unjudged, variant)
            if "problem" in variant
            else parse_record(VariantFit, variant)
            for variant in values["variants"]
        ]
        rest = {k: v for k, v in values.items() if k != "variants" and v is not None}
        found = parse_record(cls, rest)
        return dataclasses.replace(found, variants=tuple(variants))
