"""The law of a ladder: every arm is the baseline at compute m C.

Owns the points of a study, the fit of the joint form to them, its errors, hold-outs and the card.
Arrays in, numbers out.

Noise has two parts: a seed's own, and one that all runs of an arm at a rung share (a mistuned
rate), which seeds do not average away. The mean of n runs therefore has the variance
seed_sd^2 (`RUNG_SHARE` + 1/n).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ladderlm.errors import DataError
from ladderlm.scaling.forms import Joint, Sample
from ladderlm.scaling.solve import Problem, minimise

__all__ = [
    "RUNG_SHARE",
    "TOLERANCE",
    "Cells",
    "LadderLaw",
    "Points",
    "cells_of",
    "fit_card",
    "fit_law",
    "holdout_errors",
    "mean_weight",
    "prediction_errors",
]

Array = NDArray[np.float64]
# (0.008 / 0.010)^2: sd of mistuning and of seeds in nats. `power.PLANNING_NOISE` is the same
# assumption in ln L, 0.0015 / 0.0019: change both or none.
RUNG_SHARE = 0.64
N_STARTS = 2
TOLERANCE = 0.005  # a forecast within this share of the loss passes whatever its sigma


def mean_weight(n_runs: Array | int) -> Array:
    """Give the inverse variance of the mean of some runs, in units of the seed variance."""
    return np.asarray(1 / (RUNG_SHARE + 1 / np.asarray(n_runs, dtype=np.float64)))


@dataclass(frozen=True)
class Points:
    """Runs as arrays, all of equal length.

    Args:
        arm: name of each run's arm.
        rung: index of its rung.
        seed: of the run; runs of two arms with one rung and seed are a pair.
        x: what the law is in: FLOPs, device seconds or tokens, positive.
        loss: positive.
        branch: length of the run over that of its rung; None: all are 1.
    """

    arm: NDArray[np.str_]
    rung: NDArray[np.int64]
    seed: NDArray[np.int64]
    x: Array
    loss: Array
    branch: Array = None  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        if self.branch is None:
            object.__setattr__(self, "branch", np.ones(len(self.loss)))

    def where(self, mask: NDArray[np.bool_]) -> "Points":
        """Give the chosen runs."""
        return Points(*(array[mask] for array in vars(self).values()))

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True)
class Cells:
    """Means of the runs of one arm at one rung, in logarithms.

    Args:
        arm: place of the arm in `arms`.
        log_x, log_loss: means.
        n: runs.
        within: (sum of squares, degrees of freedom) of ln L inside cells.
    """

    arms: tuple[str, ...]
    arm: NDArray[np.int64]
    rung: NDArray[np.int64]
    log_x: Array
    log_loss: Array
    n: Array
    within: tuple[float, int]

    @property
    def weight(self) -> Array:
        """Inverse variance of each mean, in units of the seed variance."""
        return mean_weight(self.n)


def cells_of(points: Points, baseline: str | None = None) -> Cells:
    """Average the runs of each arm and rung.

    Raises:
        DataError: values without a logarithm.
    """
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
    keys, member = np.unique(np.stack([code, points.rung], axis=1), axis=0, return_inverse=True)
    member = member.reshape(-1)
    n = np.bincount(member, minlength=len(keys)).astype(float)
    log_x = np.bincount(member, np.log(points.x), len(keys)) / n
    log_loss = np.bincount(member, np.log(points.loss), len(keys)) / n
    apart = np.log(points.loss) - log_loss[member]
    within = (float(apart @ apart), len(points) - len(keys))
    return Cells(tuple(arms), keys[:, 0], keys[:, 1], log_x, log_loss, n, within)


@dataclass(frozen=True)
class LadderLaw:
    """L = E + (m C / C0)^-c, ln m = k0 + k1 ln(C / C_ref) for each variant, m = 1 for the baseline.

    Args:
        arms: names, the baseline first.
        theta: ln E, ln of the rest at C_ref, c, k0 of each variant, k1 of each (see `forms.Joint`).
        trend: k1 was free.
        floor: E was free; if not, it is nothing and the law is a line in logarithms.
        c_ref: geometric mean of the cells' C.
        covariance: of theta.
        sigma: sd of one run about the law, in ln L: seed and rung together.
        seed_sd: of ln L, pooled within cells; None with one seed each.
        freedom: degrees of freedom of sigma.
        n_used: runs.
        n_cells: means of arm and rung that were fitted.
    """

    arms: tuple[str, ...]
    theta: tuple[float, ...]
    trend: bool
    floor: bool
    c_ref: float
    covariance: tuple[tuple[float, ...], ...]
    sigma: float
    seed_sd: float | None
    freedom: int
    n_used: int
    n_cells: int

    @property
    def form(self) -> Joint:
        """The form, for as many variants as there are."""
        return Joint(len(self.arms) - 1, trend=self.trend)

    def _sample(self, arm: str, flops: Array) -> Sample:
        code = np.full(len(flops), self.arms.index(arm), dtype=np.int64)
        logs = {"flops": np.log(np.asarray(flops, dtype=np.float64) / self.c_ref)}
        return Sample(logs, {"flops": float(np.log(self.c_ref))}, code)

    def predict(self, arm: str, flops: Array) -> Array:
        """Give the fitted loss of an arm at some FLOPs."""
        return np.exp(self.form.log_loss(np.array(self.theta), self._sample(arm, flops)))

    def standard_error(self, arm: str, flops: Array) -> Array:
        """Give the standard error of the fitted ln L."""
        _, slopes = self.form.gradient(np.array(self.theta), self._sample(arm, flops))
        variance = np.einsum("np,pq,nq->n", slopes, np.array(self.covariance), slopes)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def mean_sd(self, n_runs: int) -> float:
        """Give the sd of the mean of some runs of one arm and rung."""
        return self.sigma * float(np.sqrt((RUNG_SHARE + 1 / n_runs) / (RUNG_SHARE + 1)))

    def slope(self, flops: Array) -> Array:
        """Give d ln L / d ln C of the baseline."""
        return _slope(np.array(self.theta), np.log(np.asarray(flops) / self.c_ref))

    @property
    def slope_error(self) -> float:
        """Relative standard error of the slope at C_ref."""
        theta, at = np.array(self.theta), np.zeros(1)
        steps = 1e-5 * np.eye(len(theta))
        up = np.array([_slope(theta + step, at)[0] for step in steps])
        down = np.array([_slope(theta - step, at)[0] for step in steps])
        gradient = (up - down) / 2e-5 / _slope(theta, at)[0]
        return float(np.sqrt(max(gradient @ np.array(self.covariance) @ gradient, 0.0)))

    def to_json(self) -> dict[str, Any]:
        """Give plain values, with the parameters under their usual names."""
        form, at = self.form, self._sample(self.arms[0], np.array([self.c_ref]))
        public = {k: float(v) for k, v in form.public(np.array(self.theta), at).items()}
        multipliers = {
            arm: {
                "k0": self.theta[3 + v],
                "k1": self.theta[3 + len(self.arms) - 1 + v] if self.trend else 0.0,
            }
            for v, arm in enumerate(self.arms[1:])
        }
        return {
            "form": "joint",
            "formula": form.formula,
            "E": public["E"] if self.floor else 0.0,
            "C0": public["C0"],
            "c": public["c"],
            "multipliers": multipliers,
            "slope": float(self.slope(np.array([self.c_ref]))[0]),
            **asdict(self),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LadderLaw":
        """Read back what `to_json` gave."""
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        for name in ("arms", "theta"):
            fields[name] = tuple(fields[name])
        fields["covariance"] = tuple(tuple(row) for row in fields["covariance"])
        return cls(**fields)


def _slope(theta: Array, log_x: Array) -> Array:
    """Give -c (L - E) / L of the baseline."""
    with np.errstate(over="ignore"):
        return np.asarray(-theta[2] / (1 + np.exp(theta[0] - theta[1] + theta[2] * log_x)))


def fit_law(points: Points, baseline: str | None = None, trend: bool = True) -> LadderLaw:
    """Fit the joint form to the means of every arm and rung, by least squares of ln L.

    A floor E and k1 are free from three rungs on; two cannot bend, and in simulation a line through
    three misses the fourth more often than it hits. Means of n runs weigh 1 / (RUNG_SHARE + 1/n).

    Raises:
        DataError: non-positive or non-finite values, less than two rungs of an arm, or no run to
            spare.
    """
    cells = cells_of(points, baseline)
    arms, n_rungs = cells.arms, len(np.unique(cells.rung))
    spread = [len(np.unique(cells.log_x[cells.arm == i].round(9))) for i in range(len(arms))]
    if len(points) < len(arms) + 2 or not spread or max(spread) < 2:
        raise DataError(
            f"not enough points: {len(points)} runs of {len(arms)} arms",
            "a line with its error needs at least two rungs and one run to spare",
            "add rungs or seeds to the study",
        )
    floor = n_rungs >= 3
    trend = trend and min(spread) >= 3 and len(cells.n) > len(arms) * 2
    c_ref = float(cells.log_x.mean())
    sample = Sample({"flops": cells.log_x - c_ref}, {"flops": c_ref}, cells.arm)
    form = Joint(len(arms) - 1, trend=trend)
    problem = Problem.of(
        form, sample, np.exp(cells.log_loss), "log-least-squares", cells.weight, floor=floor
    )
    theta = minimise(problem, n_starts=N_STARTS, polish=False, tolerance=1e-9).theta
    free = (theta > problem.low) & (theta < problem.high)
    free[0] &= theta[0] > problem.low[0] + 2
    predicted, slopes = form.gradient(theta, sample)
    information = (slopes * cells.weight[:, None]).T @ slopes
    covariance = np.zeros_like(information)
    covariance[np.ix_(free, free)] = np.linalg.pinv(information[np.ix_(free, free)], rcond=1e-12)
    residual = float(cells.weight @ (predicted - cells.log_loss) ** 2)
    freedom = len(cells.n) - int(free.sum())
    variance, freedom = _pool(residual, freedom, *cells.within)
    return LadderLaw(
        arms=arms,
        theta=tuple(float(v) for v in theta),
        trend=trend,
        floor=floor,
        c_ref=float(np.exp(c_ref)),
        covariance=tuple(tuple(float(v) for v in row) for row in variance * covariance),
        sigma=float(np.sqrt(variance * (RUNG_SHARE + 1))),
        seed_sd=float(np.sqrt(cells.within[0] / cells.within[1])) if cells.within[1] else None,
        freedom=freedom,
        n_used=len(points),
        n_cells=len(cells.n),
    )


def _pool(residual: float, freedom: int, within: float, within_freedom: int) -> tuple[float, int]:
    """Give the seed variance and its degrees of freedom.

    The scatter of means about the law and that inside of cells estimate the same variance, if
    rungs are mistuned by what `RUNG_SHARE` says. Where the means scatter by more than that
    (F test, 5 %), they alone count.
    """
    if freedom <= 0:
        return (within / within_freedom, within_freedom) if within_freedom else (0.0, 1)
    if not within_freedom:
        return residual / freedom, freedom
    ratio = residual / freedom / max(within / within_freedom, 1e-300)
    if ratio > float(stats.f.ppf(0.95, freedom, within_freedom)):
        return residual / freedom, freedom
    return (residual + within) / (freedom + within_freedom), freedom + within_freedom


def holdout_errors(
    points: Points, n_rungs: int, baseline: str | None = None
) -> list[dict[str, Any]]:
    """Fit without the top rungs, predict them, and give the errors, one row per arm and rung.

    A row passes if |error| < max(2 sigma, 0.5 % of the loss). Error is predicted / actual - 1;
    sigma, in ln L, is that of the prediction (of the law and of the mean of the runs), stretched so
    that 2 sigma are a 95 % t interval for all rows together.

    Raises:
        DataError: too few rungs are left to fit, or an arm has no run on them.
    """
    rungs = np.unique(points.rung)
    kept = points.where(np.isin(points.rung, rungs[: len(rungs) - n_rungs]))
    held = points.where(np.isin(points.rung, rungs[len(rungs) - n_rungs :]))
    law = fit_law(kept, baseline)
    unknown = sorted(set(held.arm.tolist()) - set(law.arms))
    if unknown:
        raise DataError(
            f"arm {unknown[0]!r} has no run on the lower rungs",
            "a forecast is made from the rungs below the held-out ones",
            "run those rungs, or find out why they failed",
        )
    return prediction_errors(law, held)


def prediction_errors(law: LadderLaw, held: Points) -> list[dict[str, Any]]:
    """Hold a law against runs that it was not fitted to; see `holdout_errors`."""
    cells = cells_of(held, law.arms[0])
    # All rows together stay within 2 sigma in 95 % of studies whose law is right.
    stretch = float(stats.t.ppf(1 - 0.025 / len(cells.n), law.freedom)) / 2
    rows = []
    for code, rung, log_x, log_loss, n in zip(
        cells.arm, cells.rung, cells.log_x, cells.log_loss, cells.n, strict=True
    ):
        arm, x, actual = cells.arms[code], np.exp(np.array([log_x])), float(np.exp(log_loss))
        predicted = float(law.predict(arm, x)[0])
        sigma = float(np.hypot(law.standard_error(arm, x)[0], law.mean_sd(int(n)))) * stretch
        error = predicted / actual - 1
        rows.append(
            {
                "arm": arm,
                "rung": int(rung),
                "n_runs": int(n),
                "x": float(x[0]),
                "predicted": predicted,
                "actual": actual,
                "relative_error": error,
                "sigma": sigma,
                "passed": bool(abs(error) < max(2 * sigma, TOLERANCE)),
            }
        )
    return rows


def fit_card(law: LadderLaw, points: Points, excluded: dict[str, str]) -> dict[str, Any]:
    """Say everything that decides a fit's numbers."""
    return {
        "form": law.form.formula,
        "floor": "free" if law.floor else "0: fewer than three rungs",
        "trend": "k1 free" if law.trend else "k1 = 0: fewer than three rungs",
        "loss": "least squares on ln L of the means of arm and rung",
        "optimizer": "variable projection (NNLS), Gauss-Newton",
        "starts": N_STARTS,
        "weights": f"1 / ({RUNG_SHARE} + 1 / runs)",
        "n_used": law.n_used,
        "n_cells": law.n_cells,
        "degrees_of_freedom": law.freedom,
        "rungs": sorted(int(r) for r in np.unique(points.rung)),
        "compute_range": [float(points.x.min()), float(points.x.max())],
        "excluded": excluded,
        "version": 2,
    }
