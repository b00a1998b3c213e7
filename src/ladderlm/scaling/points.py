"""The runs of a study as arrays, and their means.

Owns the points of a ladder and the variance of the mean of some of them.

Noise has two parts: a seed's own, and one that all runs of an arm at a rung share (a mistuned
rate), which averaging over seeds does not reduce. So the mean of n runs has the variance
seed_sd^2 (`RUNG_SHARE` + 1/n).

Runs of one size and seed but different lengths are branches of one trunk and share its noise, so
all lengths of an arm and rung have the weight of one mean. If their noise were independent,
intervals would be too wide, never too narrow.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError

__all__ = ["RUNG_SHARE", "Cells", "Points", "cells_of", "mean_weight"]

Array = NDArray[np.float64]
# (0.008 / 0.010)^2: sd of mistuning and of seeds in nats. `statistical_power.PLANNING_NOISE` is
# the same assumption in ln L, 0.0015 / 0.0019: change both or none.
RUNG_SHARE = 0.64


def mean_weight(n_runs: Array | int) -> Array:
    """Return the inverse variance of the mean of `n_runs` runs, in units of the seed variance."""
    return np.asarray(1 / (RUNG_SHARE + 1 / np.asarray(n_runs, dtype=np.float64)))


@dataclass(frozen=True)
class Points:
    """Runs as arrays, all of equal length."""

    arm: NDArray[np.str_]  # name of each run's arm
    rung: NDArray[np.int64]  # index of each run's rung
    seed: NDArray[np.int64]  # runs of two arms with one rung and seed are a pair
    x: Array  # FLOPs, device seconds or tokens, positive
    loss: Array  # positive
    branch: Array = None  # type: ignore[assignment]  # length relative to the rung's, default 1

    def __post_init__(self) -> None:
        if self.branch is None:
            object.__setattr__(self, "branch", np.ones(len(self.loss)))

    def where(self, mask: NDArray[np.bool_]) -> "Points":
        """Return the chosen runs."""
        return Points(*(array[mask] for array in vars(self).values()))

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True)
class Cells:
    """Means of the runs of each arm, rung and length, in logarithms."""

    arms: tuple[str, ...]
    arm: NDArray[np.int64]  # index in `arms`
    rung: NDArray[np.int64]
    log_x: Array
    log_loss: Array
    n: Array  # number of runs
    within: tuple[float, int]  # sum of squares and degrees of freedom of ln L within cells
    branch: Array  # length relative to that of the rung
    share: Array  # 1 / (number of lengths of the arm and rung), since they share their noise

    @property
    def weight(self) -> Array:
        """Inverse variance of each mean, in units of the seed variance."""
        return mean_weight(self.n) * self.share

    @property
    def n_groups(self) -> int:
        """Number of pairs of arm and rung, whose noise is independent."""
        return round(float(self.share.sum()))

    @property
    def lengths(self) -> tuple[float, ...]:
        """The different lengths, the reference length first."""
        return tuple(sorted(set(self.branch.tolist()), key=lambda b: (b != 1, b)))


def cells_of(points: Points, baseline: str | None = None) -> Cells:
    """Average the runs of each arm, rung and length; x and loss must be positive and finite."""
    good = np.isfinite(points.x) & np.isfinite(points.loss) & (points.x > 0) & (points.loss > 0)
    if not good.all():
        raise DataError(
            f"{int((~good).sum())} of {len(points)} points are not positive finite numbers",
            "a logarithm is taken of both axes",
            "exclude those runs and say why",
        )
    named = list(dict.fromkeys(points.arm.tolist()))
    arms = sorted(named, key=lambda arm: arm != baseline)  # stable: the baseline comes first
    code = np.array([arms.index(arm) for arm in points.arm.tolist()], dtype=np.int64)
    lengths, length = np.unique(points.branch, return_inverse=True)
    places = np.stack([code, points.rung, length.reshape(-1)], axis=1)
    keys, member = np.unique(places, axis=0, return_inverse=True)
    member = member.reshape(-1)
    n = np.bincount(member, minlength=len(keys)).astype(float)
    log_x = np.bincount(member, np.log(points.x), len(keys)) / n
    log_loss = np.bincount(member, np.log(points.loss), len(keys)) / n
    apart = np.log(points.loss) - log_loss[member]
    _, group, size = np.unique(keys[:, :2], axis=0, return_inverse=True, return_counts=True)
    share = 1 / size[group.reshape(-1)]
    within = (float((apart * share[member]) @ apart), round(float((n - 1) @ share)))
    branch = lengths[keys[:, 2]]
    return Cells(tuple(arms), keys[:, 0], keys[:, 1], log_x, log_loss, n, within, branch, share)
