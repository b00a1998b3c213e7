"""Compare two arms: how much compute is a change worth?

Owns the compute multiplier m(C) = (compute the baseline needs for the variant's loss) / (compute
the variant used), at every rung and pooled, and its trend. Reads and writes no files.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ladderlm.errors import DataError
from ladderlm.scaling.joint import LadderLaw, fit_law
from ladderlm.scaling.pairs import PairedLadder, arrange_pairs, pair_runs
from ladderlm.scaling.points import Points

__all__ = ["Comparison", "Estimate", "RungMultiplier", "compare_arms", "estimate"]

Array = NDArray[np.float64]
ALLOWED_EXCESS = math.log(10) / 4  # half a rung of the default ladder beyond the baseline's range


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % and 90 % intervals; an infinite end is not bounded by the data."""

    value: float
    low_95: float
    high_95: float
    low_90: float
    high_90: float
    p_value: float = math.nan  # two-sided, of no effect (1 for a multiplier, 0 for a trend)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read values from JSON, where NaN and infinite ends are null."""
        ends = {"low_95": -math.inf, "low_90": -math.inf, "high_95": math.inf, "high_90": math.inf}
        return cls(**{k: ends.get(k, math.nan) if v is None else v for k, v in values.items()})


@dataclass(frozen=True)
class RungMultiplier:
    """The multiplier at one rung.

    censored is "> x" or "< x" if the estimate is more than half a rung outside the baseline's
    range, else "".
    """

    rung: int
    x: float  # compute of the variant (geometric mean over seeds and branches)
    log_m: tuple[float, ...]  # ln m of each pair of runs with one seed, averaged over branches
    estimate: Estimate  # mean over pairs; its interval uses the spread of all pairs of the study
    extrapolated: bool  # the estimate refers to a compute at which the baseline was not run
    censored: str = ""
    slope: float = math.nan  # -d ln L / d ln C of the baseline, by which differences are divided


@dataclass(frozen=True)
class Comparison:
    """The compute multiplier of a variant relative to the baseline.

    rung_sd is the sd of a rung's mean ln m about the pooled one, at the mean slope: the pooled
    error times the root of the number of rungs. It is None with one rung.
    """

    baseline: str
    variant: str
    law: LadderLaw  # joint fit of both arms
    rungs: tuple[RungMultiplier, ...]
    pooled: Estimate  # multiplier over all rungs
    trend: Estimate  # d ln m / d ln C
    m_at_10x: Estimate  # multiplier at ten times the top rung, by the trend line
    seed_sd: float | None  # of ln L, pooled over arm and rung; None with one seed each
    rung_sd: float | None
    method: str  # how the intervals were computed
    rate_error: float = 0.0  # of the pooled ln m, from mistuned learning rates; 0 if unknown

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "law": self.law.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Comparison":
        """Read what `to_json` returned; an infinite end is null in JSON."""
        rungs = []
        for rung in values["rungs"]:
            known = {
                "log_m": tuple(rung["log_m"]),
                "estimate": Estimate.from_json(rung["estimate"]),
            }
            rungs.append(RungMultiplier(**{**rung, **known}))
        found = {name: Estimate.from_json(values[name]) for name in ("pooled", "trend", "m_at_10x")}
        law = LadderLaw.from_json(values["law"])
        return cls(**{**values, **found, "law": law, "rungs": tuple(rungs)})


METHOD = (
    "joint form; a pair's difference in ln L over the baseline's local slope is its ln m; pooled "
    "and trend by weighted regression of the rungs' mean differences on that slope, t with rungs "
    "less parameters; what seeds add that are lucky on all rungs, and the slope's own error by the "
    "delta method"
)
RATES_METHOD = "; what mistuned learning rates cost is added to every error"


def compare_arms(
    points: Points, baseline: str, variant: str, shift: Array | None = None
) -> Comparison:
    """Compare two arms of one ladder.

    By the joint form ln L_b(C) - ln L_v(C) = s(C) ln m(C), where s is the baseline's local slope
    -d ln L / d ln C midway between C and m C. So ln m of a pair is its difference divided by s. The
    pooled ln m is the slope of a regression through the origin of the rungs' mean differences on s,
    which gives more weight to rungs where compute has more effect. Pairs share rung and seed, so
    the noise of a shared data order cancels.

    Rung means, not runs, are the replicates, because a mistuned rate shifts all seeds of a rung
    together (degrees of freedom: rungs - 1; for the trend - 2). Their variance has a lower bound
    from the scatter of seeds (`PairedLadder.variance`), and a seed's effect may persist over all
    rungs (`PairedLadder.seed_variance`). Branches of one size and seed share their trunk's noise,
    so their differences and slopes are averaged to one pair first.

    Every estimate is a sum a . d over the mean differences d of the rungs. Shifts of d with second
    moment M add a M a to its variance, because the scatter shows only the part of them that does
    not follow the regressors.

    Args:
        shift: (rungs, rungs) by number of rung, the second moment of the effect of mistuned rates
            on the mean differences of ln L (`study.tuning.rate_shift`); None if it is unknown.

    Raises:
        DataError: an arm is missing, there are no pairs, or loss does not fall with compute.
    """
    both = points.where(np.isin(points.arm, [baseline, variant]))
    pairs = pair_runs(both, baseline, variant)
    law = fit_law(both, baseline)
    _check_falling(both)
    ladder = arrange_pairs(pairs, law, shift)
    base_x = both.x[both.arm == baseline]
    pooled, rung_sd, rate_error = _pool_rungs(ladder)
    trend, at_10x, line = _trend(ladder)
    return Comparison(
        baseline=baseline,
        variant=variant,
        law=law,
        rungs=_per_rung(ladder, line, (float(base_x.min()), float(base_x.max()))),
        pooled=pooled,
        trend=trend,
        m_at_10x=at_10x,
        seed_sd=law.seed_sd,
        rung_sd=rung_sd,
        method=METHOD if shift is None else METHOD + RATES_METHOD,
        rate_error=rate_error,
    )


def _check_falling(points: Points) -> None:
    log_x, log_loss = np.log(points.x), np.log(points.loss)
    for arm in np.unique(points.arm):
        own = points.arm == arm
        log_x[own] -= log_x[own].mean()
        log_loss[own] -= log_loss[own].mean()
    slope = float(log_x @ log_loss) / max(float(log_x @ log_x), 1e-300)
    if slope >= 0:
        raise DataError(
            f"loss does not fall with compute (slope {slope:.4f})",
            "a multiplier compares how fast it falls",
            "widen the ladder, or look for a rung whose rate is badly tuned",
        )


def estimate(
    log_value: float, error: float, freedom: float, exponentiate: bool = True, hidden: float = 0.0
) -> Estimate:
    """Return ln m with the t intervals of its standard error.

    Args:
        hidden: error that the scatter does not show, from mistuned rates and from seed effects that
            persist over rungs. Its normal half width is added in quadrature to that of t, and the p
            value uses both with `freedom`, so it only widens intervals.
    """
    ends = [log_value]
    for level in (0.95, 0.90):
        quantile = 0.5 + level / 2
        half = float(stats.t.ppf(quantile, freedom)) * error if freedom > 0 else math.inf
        half = math.hypot(half, float(stats.norm.ppf(quantile)) * hidden)
        ends += [log_value - half, log_value + half]
    p_value = math.nan
    both = math.hypot(error, hidden)
    if freedom > 0 and 0 < both < math.inf:
        p_value = float(2 * stats.t.sf(abs(log_value) / both, freedom))
    if exponentiate:
        ends = [math.exp(end) if end < 700 else math.inf for end in ends]
    return Estimate(ends[0], ends[1], ends[2], ends[3], ends[4], p_value)


def _pool_rungs(ladder: PairedLadder) -> tuple[Estimate, float | None, float]:
    """Regress mean differences on slopes through the origin; a single rung has no interval.

    Returns:
        The pooled m, `rung_sd` and `rate_error` of `Comparison`.
    """
    w, s, d = ladder.weights, ladder.slopes, ladder.means
    information = float(w @ s**2)
    centre = float(w @ (s * d)) / information
    n = len(d)
    share = w * s / information
    rate_error = math.sqrt(float(share @ ladder.shift @ share))
    if n < 2:
        return estimate(centre, math.inf, 0), None, rate_error
    scatter = math.sqrt(ladder.variance(d - centre * s, n - 1) / information)
    error = math.hypot(scatter, centre * ladder.slope_error)
    hidden = math.hypot(rate_error, math.sqrt(ladder.seed_variance(share)))
    rung_sd = math.hypot(scatter, hidden) * math.sqrt(n)
    return estimate(centre, error, n - 1, hidden=hidden), rung_sd, rate_error


def _trend(ladder: PairedLadder) -> tuple[Estimate, Estimate, Array]:
    """Regress mean differences on slope and slope x ln C.

    Returns:
        d ln m / d ln C, m at ten times the top rung, and ln m of the line at every rung.
    """
    w, s, d, log_x = ladder.weights, ladder.slopes, ladder.means, ladder.log_x
    n, middle = len(d), float(log_x.mean())
    if n < 3:
        unknown = Estimate(math.nan, -math.inf, math.inf, -math.inf, math.inf)
        return unknown, Estimate(math.nan, 0.0, math.inf, 0.0, math.inf), d / s
    design = np.stack([s, s * (log_x - middle)], axis=1)
    inverse = np.linalg.inv((design * w[:, None]).T @ design)
    shares = inverse @ (design * w[:, None]).T
    line = shares @ d
    variance = ladder.variance(d - design @ line, n - 2)
    rates = shares @ ladder.shift @ shares.T
    at = np.array([1.0, float(log_x.max()) - middle + math.log(10.0)])
    ahead = float(at @ line)
    error = math.sqrt(variance * inverse[1, 1])
    ahead_error = math.hypot(math.sqrt(variance * at @ inverse @ at), ahead * ladder.slope_error)
    hidden = math.sqrt(rates[1, 1] + ladder.seed_variance(shares[1]))
    ahead_hidden = math.sqrt(at @ rates @ at + ladder.seed_variance(at @ shares))
    return (
        estimate(float(line[1]), error, n - 2, False, hidden),
        estimate(ahead, ahead_error, n - 2, hidden=ahead_hidden),
        line[0] + line[1] * (log_x - middle),
    )


def _per_rung(
    ladder: PairedLadder, line: Array, base_range: tuple[float, float]
) -> tuple[RungMultiplier, ...]:
    """Return the multiplier of each rung; the sd of pairs about the trend line is pooled."""
    n_rungs = len(ladder.ids)
    about = line if n_rungs > 2 else ladder.means / ladder.slopes
    places = zip(ladder.differences, about, ladder.slopes, strict=True)
    residuals = np.concatenate([d - a * s for d, a, s in places])
    freedom = len(residuals) - (2 if n_rungs > 2 else n_rungs)
    sd = math.sqrt(float(residuals @ residuals) / freedom) if freedom > 0 else math.inf
    rows = []
    for i, rung in enumerate(ladder.ids):
        own, slope = ladder.differences[i], float(ladder.slopes[i])
        centre = float(own.mean()) / slope
        error = math.hypot(sd / slope / math.sqrt(len(own)), centre * ladder.slope_error)
        rates = math.sqrt(ladder.shift[i, i]) / slope
        needed = math.exp(ladder.log_x[i] + centre)
        rows.append(
            RungMultiplier(
                rung=rung,
                x=math.exp(ladder.log_x[i]),
                log_m=tuple(float(v) / slope for v in own),
                estimate=estimate(centre, error, freedom, hidden=rates),
                extrapolated=not base_range[0] * 0.999 <= needed <= base_range[1] * 1.001,
                censored=_censor(ladder.log_x[i], needed, base_range),
                slope=slope,
            )
        )
    return tuple(rows)


def _censor(log_x: float, needed: float, base_range: tuple[float, float]) -> str:
    low, high = base_range
    if math.log(needed / high) > ALLOWED_EXCESS:
        return f"> {high / math.exp(log_x):.2f}"
    if math.log(low / needed) > ALLOWED_EXCESS:
        return f"< {low / math.exp(log_x):.2f}"
    return ""
