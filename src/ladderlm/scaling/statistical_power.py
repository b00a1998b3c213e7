"""The statistical power of a design: which gain it can detect.

Owns the power of the t test on rung means, for planning before any run, and the number of rungs
that an inconclusive study needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from ladderlm.scaling.points import mean_weight

__all__ = [
    "PLANNING_NOISE",
    "PLANNING_SLOPE",
    "Noise",
    "design_power",
    "detectable_gain",
    "detection_power",
    "rungs_needed",
]

PLANNING_SLOPE = 0.107  # -d ln L / d ln C of models below 10M parameters, if it is not measured


@dataclass(frozen=True)
class Noise:
    """Sd of ln L."""

    seed_sd: float  # of one run, from the part of a seed's effect that a pair does not share
    rung_sd: float  # of the error that all runs of an arm at a rung share, from a mistuned rate


# 0.010 and 0.008 nats at 5.2 nats, where 10 % of compute is worth 0.053 nats.
PLANNING_NOISE = Noise(seed_sd=0.0019, rung_sd=0.0015)


def detection_power(
    gain: float,
    seeds: Sequence[int],
    noise: Noise = PLANNING_NOISE,
    slopes: Sequence[float] | float = PLANNING_SLOPE,
    level: float = 0.95,
) -> float:
    """Return the probability that the pooled interval of a true multiplier is above 1.

    The pooled ln m is a regression of rung means on slopes (see `compare_arms`). Its t statistic is
    noncentral t with rungs - 1 degrees of freedom.

    Args:
        gain: the true m.
        seeds: number of pairs of runs at each rung.
        slopes: -d ln L / d ln C at each rung.
    """
    n = np.asarray(seeds, dtype=np.float64)
    if len(n) < 2:
        return 0.0
    s = np.broadcast_to(np.asarray(slopes, dtype=np.float64), n.shape)
    weight = mean_weight(n)
    variance = 2 * (noise.rung_sd**2 + noise.seed_sd**2 / n)
    error = math.sqrt(float((weight**2 * s**2) @ variance)) / float(weight @ s**2)
    freedom = len(n) - 1
    if error == 0:
        return float(gain > 1)
    limit = float(stats.t.ppf(0.5 + level / 2, freedom))
    return float(stats.nct.sf(limit, freedom, math.log(gain) / error))


def detectable_gain(
    power: float,
    seeds: Sequence[int],
    noise: Noise = PLANNING_NOISE,
    slopes: Sequence[float] | float = PLANNING_SLOPE,
) -> float:
    """Return the smallest m below 20 that a design detects with this power, else infinity."""

    def missing(log_m: float) -> float:
        return detection_power(math.exp(log_m), seeds, noise, slopes) - power

    top = math.log(20.0)
    if missing(top) < 0:
        return math.inf
    return math.exp(float(optimize.brentq(missing, 0.0, top, xtol=1e-6)))


def design_power(seeds: Sequence[int]) -> dict[str, float]:
    """Return the multipliers that a planned ladder detects with a power of 80 and 95 %.

    Infinity means none. The assumed noise and slope, in ln L, are returned as well.
    """
    return {
        "detects_80": detectable_gain(0.80, seeds),
        "detects_95": detectable_gain(0.95, seeds),
        "seed_sd": PLANNING_NOISE.seed_sd,
        "rung_sd": PLANNING_NOISE.rung_sd,
        "slope": PLANNING_SLOPE,
    }


def rungs_needed(effect: float, rung_sd: float, power: float = 0.8) -> int:
    """Return the smallest number of rungs whose 95 % interval excludes 0 with this power.

    Args:
        effect: ln m, positive.
        rung_sd: of a rung's mean ln m.
    """
    for n in range(2, 1000):
        limit = float(stats.t.ppf(0.975, n - 1))
        if float(stats.nct.sf(limit, n - 1, effect * math.sqrt(n) / max(rung_sd, 1e-12))) >= power:
            return n
    return 1000
