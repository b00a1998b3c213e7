"""The law of a ladder: every arm is the baseline at compute m C.

Owns the fit of the joint form to the points of a study, its errors, hold-outs and the card. Reads
and writes no files.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ladderlm.errors import DataError
from ladderlm.scaling.forms import Sample
from ladderlm.scaling.joint_form import Joint
from ladderlm.scaling.points import RUNG_SHARE, Cells, Points, cells_of
from ladderlm.scaling.solve import Problem, minimise

__all__ = ["TOLERANCE", "LadderLaw", "fit_card", "fit_law", "holdout_errors", "prediction_errors"]

Array = NDArray[np.float64]
N_STARTS = 2
_FLOOR = {
    "E free": "free",
    "E = 0": "0: fewer than three rungs",
    "E = 0, b free": "0: the loss falls faster and faster",
}
TOLERANCE = 0.005  # a forecast passes if its error is below this fraction of the loss


@dataclass(frozen=True)
class LadderLaw:
    """L = E + (m C / C0)^-c, ln m = k0 + k1 ln(C / C_ref) for each variant, m = 1 for the baseline.

    With a bend ln L is quadratic in ln(m C) instead; see `joint_form.Joint`. theta is ln E, ln of
    the rest at C_ref, c, k0 of each variant, k1 of each, ln r of each further length, and b if
    there is a bend.
    """

    arms: tuple[str, ...]  # names, the baseline first
    theta: tuple[float, ...]
    trend: bool  # k1 was free
    floor: bool  # E was free; if not, it is 0 and the law is a line in logarithms
    c_ref: float  # geometric mean of the cells' C
    covariance: tuple[tuple[float, ...], ...]  # of theta
    sigma: float  # sd of ln L of one run about the law, from seed and rung together
    seed_sd: float | None  # of ln L, pooled within cells; None with one seed each
    freedom: int  # degrees of freedom of sigma
    n_used: int  # number of runs
    n_cells: int  # number of fitted means of arm, rung and length
    branches: tuple[float, ...] = (1.0,)  # lengths, the first of which has r = 1
    bend: bool = False  # E is 0 and the exponent grows with compute

    @property
    def form(self) -> Joint:
        """The fitted form."""
        return Joint(len(self.arms) - 1, self.trend, len(self.branches) - 1, self.bend)

    @property
    def shape(self) -> str:
        """Description of the curvature of the law."""
        if self.bend:
            return "E = 0, b free"
        return "E free" if self.floor else "E = 0"

    def _sample(self, arm: str, flops: Array, branch: float) -> Sample:
        code, length = self.arms.index(arm), self.branches.index(branch)
        logs = {"flops": np.log(np.asarray(flops, dtype=np.float64) / self.c_ref)}
        places = np.full((2, len(flops)), [[code], [length]], dtype=np.int64)
        return Sample(logs, {"flops": float(np.log(self.c_ref))}, *places)

    def log_r(self, branch: float) -> float:
        """Return ln r of a length, the worth of its compute in compute of the first length."""
        place = self.branches.index(branch)
        end = len(self.theta) - self.bend
        return self.theta[end - len(self.branches) + place] if place else 0.0

    def log_m(self, log_x: float) -> float:
        """Return ln m of the first variant at ln C."""
        trend = self.theta[3 + len(self.arms) - 1] if self.trend else 0.0
        return self.theta[3] + trend * (log_x - float(np.log(self.c_ref)))

    def predict(self, arm: str, flops: Array, branch: float = 1.0) -> Array:
        """Return the fitted loss of an arm at some FLOPs and length."""
        return np.exp(self.form.log_loss(np.array(self.theta), self._sample(arm, flops, branch)))

    def standard_error(self, arm: str, flops: Array, branch: float = 1.0) -> Array:
        """Return the standard error of the fitted ln L."""
        _, slopes = self.form.gradient(np.array(self.theta), self._sample(arm, flops, branch))
        variance = np.einsum("np,pq,nq->n", slopes, np.array(self.covariance), slopes)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def mean_sd(self, n_runs: int) -> float:
        """Return the sd of the mean of `n_runs` runs of one arm and rung."""
        return self.sigma * float(np.sqrt((RUNG_SHARE + 1 / n_runs) / (RUNG_SHARE + 1)))

    def slope(self, flops: Array, branch: float = 1.0) -> Array:
        """Return d ln L / d ln C of the baseline, for runs of a length."""
        log_x = np.log(np.asarray(flops) / self.c_ref) + self.log_r(branch)
        return _slope(np.array(self.theta), log_x, self.bend)

    @property
    def slope_error(self) -> float:
        """Relative standard error of the slope at C_ref."""
        theta, at = np.array(self.theta), np.zeros(1)
        steps = 1e-5 * np.eye(len(theta))
        up = np.array([_slope(theta + step, at, self.bend)[0] for step in steps])
        down = np.array([_slope(theta - step, at, self.bend)[0] for step in steps])
        gradient = (up - down) / 2e-5 / _slope(theta, at, self.bend)[0]
        return float(np.sqrt(max(gradient @ np.array(self.covariance) @ gradient, 0.0)))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the parameters under their usual names."""
        form, at = self.form, self._sample(self.arms[0], np.array([self.c_ref]), self.branches[0])
        public = {k: float(v) for k, v in form.public(np.array(self.theta), at).items()}
        k0 = self.theta[3:]
        k1 = k0[len(self.arms) - 1 :] if self.trend else (0.0,) * len(self.arms)
        trends = zip(self.arms[1:], k0, k1, strict=False)
        multipliers = {arm: {"k0": level, "k1": trend} for arm, level, trend in trends}
        lengths = {f"{branch:g}": self.log_r(branch) for branch in self.branches}
        return {
            "form": "joint",
            "formula": form.formula,
            "log_r": lengths if len(lengths) > 1 else {},
            "E": public["E"] if self.floor and not self.bend else 0.0,
            **{name: public[name] for name in ("C0", "L0", "c", "b") if name in public},
            "multipliers": multipliers,
            "slope": float(self.slope(np.array([self.c_ref]), self.branches[0])[0]),
            **asdict(self),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LadderLaw":
        """Read what `to_json` returned."""
        fields = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name in {"arms", "theta", "branches"} & fields.keys():
            fields[name] = tuple(fields[name])
        fields["covariance"] = tuple(tuple(row) for row in fields["covariance"])
        return cls(**fields)


def _slope(theta: Array, log_x: Array, bend: bool) -> Array:
    """Return -(c + b u) (L - E) / L of the baseline."""
    b = theta[-1] if bend else 0.0
    fallen = (theta[2] + b * log_x / 2) * log_x
    with np.errstate(over="ignore"):
        return np.asarray(-(theta[2] + b * log_x) / (1 + np.exp(theta[0] - theta[1] + fallen)))


def fit_law(points: Points, baseline: str | None = None, trend: bool = True) -> LadderLaw:
    """Fit the joint form to the means of every arm, rung and length, by least squares of ln L.

    E and k1 are free from three rungs on. Two rungs show no curvature, and in simulation a line
    through three misses the fourth more often than not. A mean of n runs has the weight
    1 / (RUNG_SHARE + 1/n).

    The loss of small models can fall faster and faster, which a power with a floor cannot express.
    So the exponent may grow with compute if E is 0. There is no significance test for the bend, as
    there is none for E. In simulation a test reduces coverage where the truth bends, and omitting
    it does not where the truth does not.

    Raises:
        DataError: non-positive or non-finite values, fewer than two rungs of an arm, or too few
            runs to estimate an error.
    """
    cells = cells_of(points, baseline)
    arms, lengths, n_rungs = cells.arms, cells.lengths, len(np.unique(cells.rung))
    spread = [_spread(cells, arm) for arm in range(len(arms))]
    if cells.n_groups + cells.within[1] < len(arms) + 2 or not spread or max(spread) < 2:
        raise DataError(
            f"not enough points: {len(points)} runs of {len(arms)} arms",
            "a line with its error needs at least two rungs and one run to spare",
            "add rungs or seeds to the study",
        )
    floor = n_rungs >= 3
    trend = trend and min(spread) >= 3 and cells.n_groups > len(arms) * 2
    form = Joint(len(arms) - 1, trend=trend, branches=len(lengths) - 1)
    found = _solve(cells, form, floor)
    if floor and not found.free[0]:
        bent = _solve(cells, replace(form, bend=True), floor=False)
        found = min(bent, found, key=lambda some: some.residual)
    variance, freedom = _pool_variances(found.residual, found.freedom, *cells.within)
    return LadderLaw(
        arms=arms,
        theta=tuple(float(v) for v in found.theta),
        trend=trend,
        floor=floor,
        c_ref=float(np.exp(cells.log_x.mean())),
        covariance=tuple(tuple(float(v) for v in row) for row in variance * found.covariance),
        sigma=float(np.sqrt(variance * (RUNG_SHARE + 1))),
        seed_sd=float(np.sqrt(cells.within[0] / cells.within[1])) if cells.within[1] else None,
        freedom=freedom,
        n_used=len(points),
        n_cells=len(cells.n),
        branches=lengths,
        bend=found.form.bend,
    )


@dataclass(frozen=True)
class _Found:
    """The optimum of a form."""

    form: Joint
    theta: Array
    free: NDArray[np.bool_]  # parameters within their bounds
    covariance: Array  # of theta, in units of the variance of a mean with weight 1
    residual: float  # weighted sum of squares
    freedom: int  # of the residual; it may be negative


def _solve(cells: Cells, form: Joint, floor: bool) -> _Found:
    c_ref, lengths = float(cells.log_x.mean()), cells.lengths
    length = np.array([lengths.index(branch) for branch in cells.branch.tolist()], dtype=np.int64)
    sample = Sample({"flops": cells.log_x - c_ref}, {"flops": c_ref}, cells.arm, length)
    loss = np.exp(cells.log_loss)
    problem = Problem.of(form, sample, loss, "log-least-squares", cells.weight, floor=floor)
    theta = minimise(problem, n_starts=N_STARTS, polish=False, tolerance=1e-9).theta
    free = (theta > problem.low) & (theta < problem.high)
    free[0] &= theta[0] > problem.low[0] + 2
    predicted, slopes = form.gradient(theta, sample)
    information = (slopes * cells.weight[:, None]).T @ slopes
    covariance, own = np.zeros_like(information), np.ix_(free, free)
    covariance[own] = np.linalg.pinv(information[own], rcond=1e-12)
    residual = float(cells.weight @ (predicted - cells.log_loss) ** 2)
    n_free = int(free.sum())  # branches of them are not shared by all lengths
    freedom = min(cells.n_groups - (n_free - form.branches), len(cells.n) - n_free)
    return _Found(form, theta, free, covariance, residual, freedom)


def _spread(cells: Cells, arm: int) -> int:
    """Return the number of different x of an arm, for the length that has the most."""
    own = cells.arm == arm
    lengths = [cells.log_x[own & (cells.branch == branch)] for branch in cells.lengths]
    return max(len(np.unique(log_x.round(9))) for log_x in lengths)


def _pool_variances(
    residual: float, freedom: int, within: float, within_freedom: int
) -> tuple[float, int]:
    """Return the seed variance and its degrees of freedom.

    The scatter of means about the law and that within cells estimate the same variance if rungs are
    mistuned as `RUNG_SHARE` assumes. If the means scatter by more (F test, 5 %), only they are
    used.
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
    """Fit without the top rungs, predict them, and return the errors per arm, rung and length.

    A row passes if |error| < max(2 sigma, 0.5 % of the loss), where error is predicted / actual - 1
    and sigma, in ln L, is that of the prediction (of the law and of the mean of the runs), scaled
    so that 2 sigma is a 95 % t interval for all rows together.

    Raises:
        DataError: too few rungs are left to fit, or an arm has no run on them.
    """
    rungs = np.unique(points.rung)
    kept = points.where(np.isin(points.rung, rungs[: len(rungs) - n_rungs]))
    held = points.where(np.isin(points.rung, rungs[len(rungs) - n_rungs :]))
    law = fit_law(kept, baseline)
    unknown = [f"arm {arm!r}" for arm in sorted(set(held.arm.tolist()) - set(law.arms))]
    lengths = sorted(set(held.branch.tolist()) - set(law.branches))
    unknown += [f"branch {branch:g}" for branch in lengths]
    if unknown:
        raise DataError(
            f"{unknown[0]} has no run on the lower rungs",
            "a forecast is made from the rungs below the held-out ones",
            "run those rungs, or find out why they failed",
        )
    return prediction_errors(law, held)


def prediction_errors(law: LadderLaw, held: Points) -> list[dict[str, Any]]:
    """Compare a law with runs that it was not fitted to; see `holdout_errors`."""
    cells = cells_of(held, law.arms[0])
    # All rows together are within 2 sigma in 95 % of studies whose law is right.
    stretch = float(stats.t.ppf(1 - 0.025 / len(cells.n), law.freedom)) / 2
    rows = []
    for code, rung, log_x, log_loss, n, branch in zip(
        cells.arm, cells.rung, cells.log_x, cells.log_loss, cells.n, cells.branch, strict=True
    ):
        arm, x, actual = cells.arms[code], np.exp(np.array([log_x])), float(np.exp(log_loss))
        predicted = float(law.predict(arm, x, branch)[0])
        error_of_law = law.standard_error(arm, x, branch)[0]
        sigma = float(np.hypot(error_of_law, law.mean_sd(int(n)))) * stretch
        error = predicted / actual - 1
        rows.append(
            {
                "arm": arm,
                "rung": int(rung),
                "branch": float(branch),
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
    """Return everything that determines the results of a fit."""
    return {
        "form": law.form.formula,
        "floor": _FLOOR[law.shape],
        "trend": "k1 free" if law.trend else "k1 = 0: fewer than three rungs",
        "loss": "least squares on ln L of the means of arm and rung",
        "optimizer": "variable projection (NNLS), Gauss-Newton",
        "starts": N_STARTS,
        "weights": f"1 / ({RUNG_SHARE} + 1 / runs)"
        + (" / lengths of the arm and rung" if len(law.branches) > 1 else ""),
        "branches": list(law.branches),
        "n_used": law.n_used,
        "n_cells": law.n_cells,
        "degrees_of_freedom": law.freedom,
        "rungs": sorted(int(r) for r in np.unique(points.rung)),
        "compute_range": [float(points.x.min()), float(points.x.max())],
        "excluded": excluded,
        "version": 2,
    }
