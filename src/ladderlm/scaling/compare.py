"""Compare two arms: how much compute is a change worth?

Owns the compute multiplier m(C) = (compute the baseline needs for the variant's loss) / (compute
the variant used), at every rung and pooled, and its trend. Arrays in, numbers out.
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
    """A number with its 95 % and 90 % intervals; infinite ends mean "not bounded by this data".

    Args:
        p_value: two-sided, of no effect (1 for a multiplier, 0 for a trend).
    """

    value: float
    low_95: float
    high_95: float
    low_90: float
    high_90: float
    p_value: float = math.nan

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read back plain values; JSON has null for NaN and for the infinite ends."""
        ends = {"low_95": -math.inf, "low_90": -math.inf, "high_95": math.inf, "high_90": math.inf}
        known = {k: ends.get(k, math.nan) if v is None else v for k, v in values.items()}
        return cls(**known)


@dataclass(frozen=True)
class RungMultiplier:
    """The multiplier at one rung.

    Args:
        x: compute of the variant there (geometric mean over seeds and branches).
        log_m: ln m of each pair of runs with one seed; of branches their mean.
        estimate: mean over pairs; its interval uses the spread of all pairs of the study.
        extrapolated: the baseline was never run at the compute that the answer names.
        censored: "> x" or "< x" where the answer lies more than half a rung outside of the
            baseline's range; "" elsewhere.
        slope: -d ln L / d ln C of the baseline there, which turned differences into ln m.
    """

    rung: int
    x: float
    log_m: tuple[float, ...]
    estimate: Estimate
    extrapolated: bool
    censored: str = ""
    slope: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """What a variant is worth against the baseline.

    Args:
        law: joint fit of both arms.
        rungs: multiplier at each rung.
        pooled: over rungs.
        trend: d ln m / d ln C.
        m_at_10x: at ten times the top rung, by the trend line.
        seed_sd: of ln L, pooled over arm and rung; None with one seed each.
        rung_sd: of a rung's mean of ln m about the pooled one, at the mean slope, such that its
            share of the rungs' number is the pooled error; None with one rung.
        rate_error: of the pooled ln m, what learning rates that miss their best add to it; 0 where
            nothing is known of that.
        method: how the intervals were made, in words.
    """

    baseline: str
    variant: str
    law: LadderLaw
    rungs: tuple[RungMultiplier, ...]
    pooled: Estimate
    trend: Estimate
    m_at_10x: Estimate
    seed_sd: float | None
    rung_sd: float | None
    method: str
    rate_error: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "law": self.law.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Comparison":
        """Read back what `to_json` returned; an end without bound is null in JSON."""
        rungs = [
            RungMultiplier(
                **{
                    **rung,
                    "log_m": tuple(rung["log_m"]),
                    "estimate": Estimate.from_json(rung["estimate"]),
                }
            )
            for rung in values["rungs"]
        ]
        estimates = {
            name: Estimate.from_json(values[name]) for name in ("pooled", "trend", "m_at_10x")
        }
        law = LadderLaw.from_json(values["law"])
        return cls(**{**values, **estimates, "law": law, "rungs": tuple(rungs)})


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

    The joint form says ln L_b(C) - ln L_v(C) = s(C) ln m(C) with s the baseline's local slope
    -d ln L / d ln C, taken midway between C and m C. So ln m of a pair is its difference over s,
    and the pooled ln m the slope of a regression of the rungs' mean differences through the
    origin on s: rungs where compute is worth more say more. Pairs share rung and seed, so the
    noise of a shared data order cancels. Rung means, not runs, are the replicates, since a mistuned
    rate moves all seeds of a rung together (degrees of freedom: rungs - 1; for the trend - 2); but
    less scatter than seeds alone would give but for luck is not believed (`pairs.LUCK`), and seeds
    may be lucky on all rungs, which it does not show (`PairedLadder.luck`). Branches of one size
    and seed share their trunk's noise: their differences and slopes are averaged to one pair first.

    Every estimate is a sum a . d over the mean differences d of the rungs, so shifts of d with
    second moment M add a M a to its variance, on top of the scatter, which shows only the part of
    them that does not follow the regressors.

    Args:
        shift: (rungs, rungs) by number of rung, the second moment of what mistuned rates do to the
            mean differences of ln L (`study.tuning.rate_shift`); None: nothing is known of it.

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
    log_value: float, error: float, freedom: float, exponentiate: bool = True, beside: float = 0.0
) -> Estimate:
    """Turn ln m and its standard error into an estimate with t intervals.

    Args:
        beside: error that the scatter does not show, of mistuned rates and of seeds that are lucky
            on all rungs: its normal half width is added in quadrature to that by t, so no interval
            gets narrower by it. The p value uses both with `freedom`, and is the larger for it.
    """
    ends = [log_value]
    for level in (0.95, 0.90):
        quantile = 0.5 + level / 2
        half = float(stats.t.ppf(quantile, freedom)) * error if freedom > 0 else math.inf
        half = math.hypot(half, float(stats.norm.ppf(quantile)) * beside)
        ends += [log_value - half, log_value + half]
    p_value = math.nan
    both = math.hypot(error, beside)
    if freedom > 0 and 0 < both < math.inf:
        p_value = float(2 * stats.t.sf(abs(log_value) / both, freedom))
    if exponentiate:
        ends = [math.exp(end) if end < 700 else math.inf for end in ends]
    return Estimate(ends[0], ends[1], ends[2], ends[3], ends[4], p_value)


def _pool_rungs(ladder: PairedLadder) -> tuple[Estimate, float | None, float]:
    """Regress mean differences on slopes through the origin; one rung alone has no interval.

    Returns:
        The pooled m; the sd of one rung's ln m and the error by mistuned rates, as in `Comparison`.
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
    beside = math.hypot(rate_error, math.sqrt(ladder.luck(share)))
    rung_sd = math.hypot(scatter, beside) * math.sqrt(n)
    return estimate(centre, error, n - 1, beside=beside), rung_sd, rate_error


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
    beside = math.sqrt(rates[1, 1] + ladder.luck(shares[1]))
    ahead_beside = math.sqrt(at @ rates @ at + ladder.luck(at @ shares))
    return (
        estimate(float(line[1]), error, n - 2, False, beside),
        estimate(ahead, ahead_error, n - 2, beside=ahead_beside),
        line[0] + line[1] * (log_x - middle),
    )


def _per_rung(
    ladder: PairedLadder, line: Array, base_range: tuple[float, float]
) -> tuple[RungMultiplier, ...]:
    """Return each rung its mean; the sd of pairs is pooled over all about the trend line."""
    n_rungs = len(ladder.ids)
    about = line if n_rungs > 2 else ladder.means / ladder.slopes
    residuals = np.concatenate(
        [d - a * s for d, a, s in zip(ladder.differences, about, ladder.slopes, strict=True)]
    )
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
                estimate=estimate(centre, error, freedom, beside=rates),
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
