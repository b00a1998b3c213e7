"""Ladders of runs made up from known laws, and comparisons with numbers in sight."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ladderlm.scaling.compare import Comparison, Estimate, RungMultiplier
from ladderlm.scaling.joint import LadderLaw, fit_law
from ladderlm.scaling.points import Points

__all__ = ["BUDGETS", "SLOPE", "make_comparison", "make_estimate", "make_ladder", "points_from"]

BUDGETS = tuple(1e13 * 10 ** (k / 2) for k in range(5))  # two decades in half-decade steps
SLOPE = -0.08  # of ln L in ln C


def points_from(rows: Sequence[tuple[str, int, int, float, float]]) -> Points:
    """Make points from rows of (arm, rung, seed, x, loss)."""
    arm, rung, seed, x, loss = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return Points(
        np.array(arm, dtype=np.str_),
        np.array(rung, dtype=np.int64),
        np.array(seed, dtype=np.int64),
        np.array(x, dtype=np.float64),
        np.array(loss, dtype=np.float64),
    )


def make_ladder(
    m: float = 1.1,
    *,
    trend: float = 0.0,
    budgets: Sequence[float] = BUDGETS,
    n_seeds: int = 2,
    slope: float = SLOPE,
    shared_sd: float = 0.0,
    own_sd: float = 0.0,
    rung_sd: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Points:
    """Make two arms, "base" and "new": new at compute C has the loss of base at m(C) * C.

    Args:
        m: multiplier at the middle budget.
        trend: d ln m / d ln C.
        shared_sd: noise in ln L of a pair (the order of data).
        own_sd: noise in ln L of each run.
        rung_sd: noise in ln L of all of one arm's runs at a rung (a mistuned rate).
    """
    rng = rng or np.random.default_rng(0)
    middle = math.exp(sum(map(math.log, budgets)) / len(budgets))
    rows = []
    for rung, budget in enumerate(budgets):
        mistuned = rng.normal(0, rung_sd, 2)
        for seed in range(n_seeds):
            shared = rng.normal(0, shared_sd)
            log_m = math.log(m) + trend * math.log(budget / middle)
            for i, (arm, gain) in enumerate((("base", 0.0), ("new", log_m))):
                log_loss = 1.2 + slope * (math.log(budget / middle) + gain)
                log_loss += shared + mistuned[i] + rng.normal(0, own_sd)
                rows.append((arm, rung, seed, budget, math.exp(log_loss)))
    return points_from(rows)


def make_estimate(value: float, half_95: float, half_90: float | None = None) -> Estimate:
    """Make an estimate with symmetric ends; the 90 % interval is 0.8 as wide if not said."""
    half_90 = 0.8 * half_95 if half_90 is None else half_90
    return Estimate(value, value - half_95, value + half_95, value - half_90, value + half_90)


@functools.cache
def _law() -> LadderLaw:
    return fit_law(make_ladder())


def make_comparison(
    pooled: Estimate,
    trend: Estimate | None = None,
    ahead: Estimate | None = None,
    rungs: Sequence[tuple[float, float]] = ((1.0, 0.5), (1.0, 0.5), (1.0, 0.5)),
    log_m: Sequence[float] | None = None,
) -> Comparison:
    """Make a comparison by hand.

    Args:
        trend, ahead: of ln m, and m at ten times the top rung; unknown if not said.
        rungs: (value, half width of the 95 % interval) of m at each rung.
        log_m: ln m of the one pair of each rung; ln of the values if not said.
    """
    unknown: dict[str, Any] = {"value": math.nan, "low_95": -math.inf, "high_95": math.inf}
    unknown |= {"low_90": -math.inf, "high_90": math.inf}
    pairs = log_m if log_m is not None else [math.log(value) for value, _ in rungs]
    return Comparison(
        baseline="base",
        variant="new",
        law=_law(),
        rungs=tuple(
            RungMultiplier(i, 1e13 * 10**i, (pairs[i],), make_estimate(value, half), False)
            for i, (value, half) in enumerate(rungs)
        ),
        pooled=pooled,
        trend=trend or Estimate(**unknown),
        m_at_10x=ahead or Estimate(**unknown),
        seed_sd=None,
        rung_sd=float(np.std(pairs, ddof=1)) if len(pairs) > 1 else None,
        method="by hand",
    )
