"""Compare two arms: how much compute is a change worth?

Owns the compute multiplier m(C) = (compute the baseline needs for the variant's loss) / (compute
the variant used), at every rung and pooled, and its trend. Arrays in, numbers out.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ladderlm.errors import DataError
from ladderlm.scaling.laws import LogLinearLaw
from ladderlm.scaling.loglinear import Points, fit_log_linear

__all__ = ["Comparison", "Estimate", "RungMultiplier", "compare_arms"]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % and 90 % intervals; infinite ends mean "not bounded by this data"."""

    value: float
    low_95: float
    high_95: float
    low_90: float
    high_90: float


@dataclass(frozen=True)
class RungMultiplier:
    """The multiplier at one rung.

    Args:
        x: compute of the variant there (geometric mean over seeds).
        log_m: ln m of each pair of runs with one seed.
        estimate: mean over pairs; its interval uses the spread of all pairs of the study.
        extrapolated: the baseline was never run at the compute that the answer names.
    """

    rung: int
    x: float
    log_m: tuple[float, ...]
    estimate: Estimate
    extrapolated: bool


@dataclass(frozen=True)
class Comparison:
    """What a variant is worth against the baseline.

    Args:
        law: fit over both arms.
        rungs: multiplier at each rung.
        pooled: over rungs.
        trend: d ln m / d ln C.
        m_at_10x: at ten times the top rung, by the trend line.
        seed_sd: of ln L, pooled over arm and rung; None with one seed each.
        method: how the intervals were made, in words.
    """

    baseline: str
    variant: str
    law: LogLinearLaw
    rungs: tuple[RungMultiplier, ...]
    pooled: Estimate
    trend: Estimate
    m_at_10x: Estimate
    seed_sd: float | None
    method: str

    def to_json(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return {**asdict(self), "law": self.law.to_json()}


METHOD = (
    "ln m of a pair = (ln L_baseline - ln L_variant) / |slope|, corrected along the fitted line "
    "for the pair's difference in compute; pooled and trend by t on rung means, the slope's own "
    "error added by the delta method"
)


def compare_arms(points: Points, baseline: str, variant: str) -> Comparison:
    """Compare two arms of one ladder.

    With the law ln L = a + b ln C, the baseline reaches the loss L_v at ln C = (ln L_v - a_b)/b.
    Hence ln m = (d + b dx) / b with d = ln L_v - ln L_b of a pair and dx = ln C_b - ln C_v: the
    loss difference at equal compute over the slope. Pairs share rung and seed, so the noise of a
    shared data order cancels. Rung means, not runs, are the replicates, since a mistuned rate moves
    all seeds of a rung together (degrees of freedom: rungs - 1).

    Raises:
        DataError: an arm is missing, there are no pairs, or loss does not fall with compute.
    """
    both = points.where(np.isin(points.arm, [baseline, variant]))
    law = fit_log_linear(both)
    if law.slope >= 0:
        raise DataError(
            f"loss does not fall with compute (slope {law.slope:.4f})",
            "a multiplier compares how fast it falls",
            "widen the ladder, or look for a rung whose rate is badly tuned",
        )
    pairs = _pair(both, baseline, variant)
    rung_ids = sorted({rung for rung, *_ in pairs})
    log_m: dict[int, list[float]] = {rung: [] for rung in rung_ids}
    x_of: dict[int, list[float]] = {rung: [] for rung in rung_ids}
    for rung, x_base, x_variant, loss_base, loss_variant in pairs:
        difference = math.log(loss_variant / loss_base) + law.slope * math.log(x_base / x_variant)
        log_m[rung].append(difference / law.slope)
        x_of[rung].append(math.log(x_variant))
    means = np.array([float(np.mean(log_m[rung])) for rung in rung_ids])
    log_x = np.array([float(np.mean(x_of[rung])) for rung in rung_ids])
    slope_error = math.sqrt(law.covariance[-1][-1]) / abs(law.slope)
    base_range = both.x[both.arm == baseline]
    rungs = _per_rung(rung_ids, log_m, log_x, slope_error, (base_range.min(), base_range.max()))
    pooled = _pool(means, slope_error)
    trend, at_10x = _trend(means, log_x)
    return Comparison(baseline, variant, law, rungs, pooled, trend, at_10x, _seed_sd(both), METHOD)


def _pair(
    points: Points, baseline: str, variant: str
) -> list[tuple[int, float, float, float, float]]:
    """Match runs of one rung and seed: (rung, x_base, x_variant, loss_base, loss_variant)."""
    index = {
        (str(a), int(r), int(s)): i
        for i, (a, r, s) in enumerate(zip(points.arm, points.rung, points.seed, strict=True))
    }
    pairs = []
    for (arm, rung, seed), i in sorted(index.items(), key=lambda item: item[0][1:]):
        other = index.get((baseline, rung, seed))
        if arm == variant and other is not None:
            x, loss = points.x, points.loss
            pairs.append((rung, float(x[other]), float(x[i]), float(loss[other]), float(loss[i])))
    if not pairs:
        raise DataError(
            f"no run of {variant!r} shares rung and seed with one of {baseline!r}",
            "arms are compared in pairs of equal budget and seed",
            "run the missing half of the ladder",
        )
    return pairs


def _estimate(
    log_value: float, error: float, freedom: float, exponentiate: bool = True
) -> Estimate:
    """Turn ln m and its standard error into an estimate with t intervals."""
    ends = [log_value]
    for level in (0.95, 0.90):
        half = float(stats.t.ppf(0.5 + level / 2, freedom)) * error if freedom > 0 else math.inf
        ends += [log_value - half, log_value + half]
    if exponentiate:
        ends = [math.exp(end) if end < 700 else math.inf for end in ends]
    return Estimate(*ends)


def _pool(means: NDArray[np.float64], slope_error: float) -> Estimate:
    """Pool rung means; one rung alone has no interval."""
    n = len(means)
    centre = float(means.mean())
    spread = float(means.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return _estimate(centre, math.hypot(spread, centre * slope_error), n - 1)


def _per_rung(
    rung_ids: list[int],
    log_m: dict[int, list[float]],
    log_x: NDArray[np.float64],
    slope_error: float,
    base_range: tuple[float, float],
) -> tuple[RungMultiplier, ...]:
    """Give each rung its mean; the pair sd is pooled over all pairs about a straight line."""
    centres = np.array([float(np.mean(log_m[rung])) for rung in rung_ids])
    line = np.polyval(np.polyfit(log_x, centres, 1), log_x) if len(rung_ids) > 2 else centres
    residuals = [v - line[i] for i, rung in enumerate(rung_ids) for v in log_m[rung]]
    freedom = len(residuals) - (2 if len(rung_ids) > 2 else len(rung_ids))
    sd = math.sqrt(sum(r * r for r in residuals) / freedom) if freedom > 0 else math.inf
    rows = []
    for i, rung in enumerate(rung_ids):
        error = math.hypot(sd / math.sqrt(len(log_m[rung])), centres[i] * slope_error)
        needed = math.exp(log_x[i] + centres[i])
        rows.append(
            RungMultiplier(
                rung=rung,
                x=math.exp(log_x[i]),
                log_m=tuple(log_m[rung]),
                estimate=_estimate(float(centres[i]), error, freedom),
                extrapolated=not base_range[0] * 0.999 <= needed <= base_range[1] * 1.001,
            )
        )
    return tuple(rows)


def _trend(means: NDArray[np.float64], log_x: NDArray[np.float64]) -> tuple[Estimate, Estimate]:
    """Regress ln m on ln C over rungs; give the slope and m at ten times the top rung."""
    n = len(means)
    if n < 3:
        unknown = Estimate(math.nan, -math.inf, math.inf, -math.inf, math.inf)
        return unknown, Estimate(math.nan, 0.0, math.inf, 0.0, math.inf)
    centred = log_x - log_x.mean()
    sxx = float(centred @ centred)
    slope = float(centred @ means) / sxx
    residuals = means - means.mean() - slope * centred
    variance = float(residuals @ residuals) / (n - 2)
    at = float(log_x.max() - log_x.mean()) + math.log(10.0)
    error = math.sqrt(variance * (1 / n + at * at / sxx))
    return (
        _estimate(slope, math.sqrt(variance / sxx), n - 2, exponentiate=False),
        _estimate(float(means.mean()) + slope * at, error, n - 2),
    )


def _seed_sd(points: Points) -> float | None:
    """Pool the sd of ln L over cells of one arm and rung with two seeds or more."""
    total, freedom = 0.0, 0
    for arm in np.unique(points.arm):
        for rung in np.unique(points.rung):
            values = np.log(points.loss[(points.arm == arm) & (points.rung == rung)])
            if len(values) > 1:
                total += float(((values - values.mean()) ** 2).sum())
                freedom += len(values) - 1
    return math.sqrt(total / freedom) if freedom else None
