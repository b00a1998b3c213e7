"""Pairs of runs of two arms, and the variance of their mean differences.

Owns the pairing of runs and the variance of estimates from their differences: between rungs, since
all runs of a rung share an error, and between seeds, whose effect may persist over rungs.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ladderlm.errors import DataError
from ladderlm.scaling.joint import LadderLaw
from ladderlm.scaling.points import Points, mean_weight

__all__ = ["Pair", "PairedLadder", "arrange_pairs", "pair_runs"]

Array = NDArray[np.float64]
QUANTILE = 0.2  # by simulation: with the whole scatter of seeds as bound, intervals are too wide


class Pair(NamedTuple):
    """Two runs, one of each arm, with the same rung, length and seed."""

    rung: int
    branch: float
    seed: int
    x_base: float
    x_variant: float
    loss_base: float
    loss_variant: float


@dataclass(frozen=True)
class PairedLadder:
    """Pairs by rung: differences d = s ln m in ln L, and the local slope s > 0 of each rung."""

    ids: tuple[int, ...]
    log_x: Array
    differences: tuple[Array, ...]
    seeds: tuple[tuple[int, ...], ...]
    slopes: Array
    slope_error: float
    shift: Array  # (rungs, rungs), second moment of errors that a rung shares, from mistuned rates

    @property
    def means(self) -> Array:
        """Mean difference of each rung."""
        return np.array([float(d.mean()) for d in self.differences])

    @property
    def weights(self) -> Array:
        """Inverse variance of each mean, in units of the seed variance."""
        return mean_weight(np.array([len(d) for d in self.differences]))

    def variance(self, residuals: Array, freedom: int) -> float:
        """Return the unit variance of the rungs' means, from their scatter.

        By chance, means may scatter much less than the seeds within rungs imply. So the variance is
        at least the `QUANTILE` of its distribution if seeds were the only source of scatter.
        """
        between = float(self.weights @ residuals**2) / freedom
        n_more = sum(len(d) - 1 for d in self.differences)
        if not n_more:
            return between
        inside = sum(float(((d - d.mean()) ** 2).sum()) for d in self.differences) / n_more
        n = np.array([len(d) for d in self.differences])
        least = float((self.weights * inside / n).mean() * stats.f.ppf(QUANTILE, freedom, n_more))
        return max(between, least)

    def seed_variance(self, shares: Array) -> float:
        """Return the variance of sum(shares * means) from seed effects that persist over rungs.

        The scatter of rungs does not show it. With two-way clusters (Cameron, Gelbach and Miller
        2011, equation 2.11), a variance is that between rungs, plus that between seeds, minus that
        of single pairs. This is the sum of the last two, but at least 0. It is shrunk by
        (n - 1) / (n + 1) for n seeds, because a sum of squares over n + 1 estimates the variance of
        normal values with the least mean square error.
        """
        by_seed: dict[int, float] = {}
        alone = 0.0
        for share, own, seeds in zip(shares, self.differences, self.seeds, strict=True):
            n = len(own)
            if n > 1:
                apart = share * (own - own.mean()) / n * math.sqrt(n / (n - 1))
                alone += float(apart @ apart)
                for seed, value in zip(seeds, apart.tolist(), strict=True):
                    by_seed[seed] = by_seed.get(seed, 0.0) + value
        more = sum(value**2 for value in by_seed.values()) - alone
        n_seeds = len(by_seed)
        return max(more, 0.0) * max(n_seeds - 1, 0) / (n_seeds + 1)


def pair_runs(points: Points, baseline: str, variant: str) -> list[Pair]:
    """Match runs with the same rung, length and seed, or raise DataError if there are none."""
    places = zip(points.arm, points.rung, points.branch, points.seed, strict=True)
    index = {(str(a), int(r), float(b), int(s)): i for i, (a, r, b, s) in enumerate(places)}
    pairs = []
    for (arm, rung, branch, seed), i in sorted(index.items(), key=lambda item: item[0][1:]):
        other = index.get((baseline, rung, branch, seed))
        if arm == variant and other is not None:
            own = (*points.x[[other, i]].tolist(), *points.loss[[other, i]].tolist())
            pairs.append(Pair(rung, branch, seed, *own))
    if not pairs:
        raise DataError(
            f"no run of {variant!r} shares rung and seed with one of {baseline!r}",
            "arms are compared in pairs of equal budget and seed",
            "run the missing half of the ladder",
        )
    return pairs


def arrange_pairs(pairs: list[Pair], law: LadderLaw, shift: Array | None) -> PairedLadder:
    """Sort pairs by rung, with the baseline's slope at each.

    Args:
        law: of both arms.
        shift: see `PairedLadder`, for all rungs of the study by number; None if it is unknown.
    """
    ids = tuple(sorted({pair.rung for pair in pairs}))
    means = (_average([pair for pair in pairs if pair.rung == rung], law) for rung in ids)
    differences, seeds, log_x, slopes = zip(*means, strict=True)
    moved = np.zeros((len(ids), len(ids))) if shift is None else shift[np.ix_(ids, ids)]
    arrays = np.array(log_x), differences, seeds, np.array(slopes)
    return PairedLadder(ids, *arrays, law.slope_error, moved)


def _average(pairs: list[Pair], law: LadderLaw) -> tuple[Array, tuple[int, ...], float, float]:
    """Average the lengths of each seed of a rung.

    Returns:
        One difference in ln L per seed, the seeds, ln of the variant's compute and the mean slope.
        The difference of a seed without all lengths is rescaled to that slope.
    """
    gains: dict[int, list[float]] = {}
    slopes: dict[int, list[float]] = {}
    log_x, all_slopes = [], []
    for branch in sorted({pair.branch for pair in pairs}):
        of_length = [pair for pair in pairs if pair.branch == branch]
        own = np.array([pair[3:] for pair in of_length])
        x_base, x_variant = np.log(own[:, 0]), np.log(own[:, 1])
        needed = x_variant.mean() + law.log_m(float(x_variant.mean()))
        middle = math.exp((x_base.mean() + needed) / 2)
        slope = -float(law.slope(np.array([middle]), branch)[0])
        gain = np.log(own[:, 2] / own[:, 3]) + slope * (x_base - x_variant)
        for pair, difference in zip(of_length, gain.tolist(), strict=True):
            gains.setdefault(pair.seed, []).append(difference)
            slopes.setdefault(pair.seed, []).append(slope)
        log_x.append(float(x_variant.mean()))
        all_slopes.append(slope)
    mean = float(np.mean(all_slopes))
    seeds = tuple(sorted(gains))
    differences = [np.mean(gains[s]) * (mean / np.mean(slopes[s])) for s in seeds]
    return np.array(differences), seeds, float(np.mean(log_x)), mean
