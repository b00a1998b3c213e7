"""Runs of two arms in pairs, and what their scatter says of the mean differences of rungs.

Owns who is paired with whom, and the variance of what is made of the differences: by rungs, whose
means err together, and by seeds, whose effect may persist over rungs.
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
LUCK = 0.2  # by simulation: with all of the seeds' scatter as the least, intervals are too wide


class Pair(NamedTuple):
    """A run of each arm with one rung, length and seed."""

    rung: int
    branch: float
    seed: int
    x_base: float
    x_variant: float
    loss_base: float
    loss_variant: float


@dataclass(frozen=True)
class PairedLadder:
    """Pairs by rung: differences d = s ln m in ln L, and the local slope s > 0 of each rung.

    `shift` is the second moment (rungs, rungs) of what moves all pairs of a rung: mistuned rates.
    """

    ids: tuple[int, ...]
    log_x: Array
    differences: tuple[Array, ...]
    seeds: tuple[tuple[int, ...], ...]
    slopes: Array
    slope_error: float
    shift: Array

    @property
    def means(self) -> Array:
        """Mean difference of every rung."""
        return np.array([float(d.mean()) for d in self.differences])

    @property
    def weights(self) -> Array:
        """Inverse variance of each, in units of the seed variance."""
        return mean_weight(np.array([len(d) for d in self.differences]))

    def variance(self, residuals: Array, freedom: int) -> float:
        """Return the unit variance of the rungs' means, from their scatter.

        Means may by luck scatter much less than the seeds inside of rungs say they must. The
        least that is believed is what seeds alone would undercut in `LUCK` of all ladders.
        """
        between = float(self.weights @ residuals**2) / freedom
        n_more = sum(len(d) - 1 for d in self.differences)
        if not n_more:
            return between
        inside = sum(float(((d - d.mean()) ** 2).sum()) for d in self.differences) / n_more
        n = np.array([len(d) for d in self.differences])
        least = float((self.weights * inside / n).mean() * stats.f.ppf(LUCK, freedom, n_more))
        return max(between, least)

    def luck(self, shares: Array) -> float:
        """Return the variance of sum(shares * means) that seeds add which are lucky on all rungs.

        The scatter of rungs does not show it. Clustered by rungs and by seeds (Cameron, Gelbach
        and Miller 2011, equation 2.11), a variance is that by rungs, plus that by seeds, less that
        of single pairs; this is what the last two come to, and never less than nothing. Few seeds
        say little of it, so of n seeds (n - 1) / (n + 1) is believed, as the variance of normal
        values is estimated with the least mean square error by a sum of squares over n + 1.
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
    """Match runs of one rung, length and seed.

    Raises:
        DataError: there are none.
    """
    places = zip(points.arm, points.rung, points.branch, points.seed, strict=True)
    index = {(str(a), int(r), float(b), int(s)): i for i, (a, r, b, s) in enumerate(places)}
    pairs = []
    for (arm, rung, branch, seed), i in sorted(index.items(), key=lambda item: item[0][1:]):
        other = index.get((baseline, rung, branch, seed))
        if arm == variant and other is not None:
            x, loss = points.x, points.loss
            found = (x[other], x[i], loss[other], loss[i])
            pairs.append(Pair(rung, branch, seed, *(float(value) for value in found)))
    if not pairs:
        raise DataError(
            f"no run of {variant!r} shares rung and seed with one of {baseline!r}",
            "arms are compared in pairs of equal budget and seed",
            "run the missing half of the ladder",
        )
    return pairs


def arrange_pairs(pairs: list[Pair], law: LadderLaw, shift: Array | None) -> PairedLadder:
    """Put pairs in order of rungs, with the baseline's slope at each.

    Args:
        law: of both arms.
        shift: see `PairedLadder`, for all rungs of the study by number; None: nothing is known.
    """
    ids = tuple(sorted({pair.rung for pair in pairs}))
    found, seeds, log_x, slopes = [], [], [], []
    for rung in ids:
        differences, own, where, slope = _average([p for p in pairs if p.rung == rung], law)
        found.append(differences)
        seeds.append(own)
        log_x.append(where)
        slopes.append(slope)
    moved = np.zeros((len(ids), len(ids))) if shift is None else shift[np.ix_(ids, ids)]
    arrays = np.array(log_x), tuple(found), tuple(seeds), np.array(slopes)
    return PairedLadder(ids, *arrays, law.slope_error, moved)


def _average(pairs: list[Pair], law: LadderLaw) -> tuple[Array, tuple[int, ...], float, float]:
    """Average the lengths of every seed of a rung.

    Returns:
        One difference in ln L a seed, the seeds, ln of the variant's compute and the slope. A seed
        that lacks a length has its difference brought to the slope of all.
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
