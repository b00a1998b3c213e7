"""Find the parameters of a form.

Owns the procedure: starts by variable projection, a polish by L-BFGS with restarts, and a damped
Gauss-Newton that refits many weightings at once from a known optimum.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ladderlm.scaling.forms import Form, Sample

__all__ = [
    "DELTA",
    "OBJECTIVES",
    "Problem",
    "Solution",
    "minimise",
    "objective",
    "other_objective",
    "refit",
]

Array = NDArray[np.float64]
DELTA = 1e-3  # of Huber, in ln L; source: Hoffmann et al. 2022, appendix D.3
FLOOR = -14.0  # ln of a negligible term, for losses scaled to 1
N_STARTS = 12
MAX_RESTARTS = 5
OBJECTIVES = {
    "huber": f"sum of Huber (delta {DELTA:g}) of the difference in ln L",
    "least-squares": "sum of squares of the difference in L",
    "log-least-squares": "sum of squares of the difference in ln L",
}


def other_objective(name: str) -> str:
    """Return the objective that is reported for comparison."""
    return "least-squares" if name == "huber" else "huber"


@dataclass(frozen=True)
class Problem:
    """A fitting problem."""

    form: Form
    sample: Sample
    log_loss: Array  # (n,)
    weight: Array  # (n,), non-negative
    objective: str  # a key of `OBJECTIVES`
    low: Array  # bounds of all parameters, (p,); equal bounds fix a parameter
    high: Array

    @classmethod
    def of(
        cls,
        form: Form,
        sample: Sample,
        loss: Array,
        objective: str = "huber",
        weight: Array | None = None,
        floor: bool = True,
    ) -> "Problem":
        """Return a problem with the usual bounds; `floor` False fixes E at 0."""
        log_loss = np.log(loss)
        middle = float(log_loss.mean())
        eta = form.bounds()
        low = np.concatenate([np.full(form.n_terms, middle + FLOOR), eta[:, 0]])
        high = np.concatenate([np.full(form.n_terms, middle + 3.0), eta[:, 1]])
        high[0] = float(log_loss.min()) if floor else low[0]
        weight = np.ones_like(log_loss) if weight is None else weight
        return cls(form, sample, log_loss, weight, objective, low, high)

    def where(self, mask: NDArray[np.bool_]) -> "Problem":
        """Return the problem of some points, with the scaling of all."""
        log_loss, weight = self.log_loss[mask], self.weight[mask]
        return replace(self, sample=self.sample.where(mask), log_loss=log_loss, weight=weight)


@dataclass(frozen=True)
class Solution:
    """An optimum."""

    theta: Array  # parameters, (K + P,)
    value: float  # of the objective
    n_starts: int
    n_agreeing: int  # starts that ended within 0.1 % of this value


def _residuals(problem: Problem, log_loss: Array, target: Array) -> tuple[Array, Array]:
    """Return residuals and their derivative with respect to ln L."""
    if problem.objective == "least-squares":
        loss = np.exp(log_loss)
        return loss - np.exp(target), loss
    return log_loss - target, np.ones_like(log_loss)


def _cost(problem: Problem, residual: Array) -> tuple[Array, Array]:
    """Return the cost of each point and its weight in reweighted least squares."""
    square = 0.5 * residual**2
    if problem.objective != "huber":
        return square, np.ones_like(residual)
    size = np.abs(residual)
    inside = size <= DELTA
    cost = np.where(inside, square, DELTA * (size - 0.5 * DELTA))
    return cost, np.where(inside, 1.0, DELTA / np.maximum(size, DELTA))


def objective(problem: Problem, theta: Array) -> tuple[float, Array]:
    """Return the value and the gradient at one parameter vector."""
    log_loss, slopes = problem.form.gradient(theta, problem.sample)
    residual, chain = _residuals(problem, log_loss, problem.log_loss)
    cost, weight = _cost(problem, residual)
    pull = problem.weight * weight * residual * chain
    return float(problem.weight @ cost), pull @ slopes


def minimise(
    problem: Problem, n_starts: int = N_STARTS, polish: bool = True, tolerance: float = 1e-12
) -> Solution:
    """Fit from scratch.

    Only the exponents are on a grid. E and the other factors follow by non-negative least squares
    (variable projection: Golub and Pereyra 1973). L-BFGS-B and `refit` improve the best starts, and
    then the best of the results until there is no further gain.

    Args:
        polish: False omits L-BFGS, which suffices for a single sharp optimum.
    """
    starts = _starts(problem, n_starts)
    if polish:
        starts = np.stack([_polish(problem, start) for start in starts])
    theta, value = refit(problem, starts, tolerance=tolerance)
    best = int(np.argmin(value))
    agreeing = int((value <= value[best] * 1.001 + 1e-15).sum())
    found, least = theta[best], float(value[best])
    for _ in range(MAX_RESTARTS if polish else 0):
        again, reached = refit(problem, _polish(problem, found))
        gained = least - float(reached[0])
        if gained > 0:
            found, least = again[0], float(reached[0])
        if gained <= 1e-6 * least:
            break
    return Solution(found, least, len(starts), agreeing)


def _starts(problem: Problem, n_starts: int) -> Array:
    form, grid = problem.form, problem.form.grid()
    eta_low, eta_high = problem.low[form.n_terms :], problem.high[form.n_terms :]
    grid = np.unique(np.clip(grid, eta_low, eta_high), axis=0)
    loss, weight = np.exp(problem.log_loss), np.sqrt(problem.weight) / np.exp(problem.log_loss)
    basis = np.exp(form.terms(grid, problem.sample)) * weight[:, None]
    free = problem.high[: form.n_terms] > problem.low[: form.n_terms]
    found = []
    for eta, columns in zip(grid, basis, strict=True):
        factors, error = optimize.nnls(columns[:, free], loss * weight)
        a = problem.low[: form.n_terms].copy()
        a[free] = np.log(np.maximum(factors, 1e-300))
        theta = np.clip(np.concatenate([a, eta]), problem.low, problem.high)
        found.append((error, theta))
    found.sort(key=lambda pair: float(pair[0]))
    return np.stack([theta for _, theta in found[:n_starts]])


def _polish(problem: Problem, start: Array) -> Array:
    """Run L-BFGS-B with the analytic gradient."""
    scale = 1.0 / max(objective(problem, start)[0], 1e-12)

    def scaled(theta: Array) -> tuple[float, Array]:
        value, gradient = objective(problem, theta)
        return value * scale, gradient * scale

    options: Any = {
        "method": "L-BFGS-B",
        "bounds": list(zip(problem.low, problem.high, strict=True)),
        "options": {"maxiter": 40, "ftol": 1e-12, "gtol": 1e-9},
    }
    result: Any = optimize.minimize(scaled, start, jac=True, **options)
    return np.asarray(result.x)


def refit(
    problem: Problem,
    start: Array,
    weight: Array | None = None,
    held: NDArray[np.bool_] | None = None,
    n_iterations: int = 200,
    tolerance: float = 1e-12,
) -> tuple[Array, Array]:
    """Refit many weightings at once from known parameters.

    Damped Gauss-Newton (Levenberg 1944, Marquardt 1963), reweighted for Huber. Parameters at a
    bound stay there if the gradient points outside.

    Args:
        start: (p,) or (B, p).
        weight: (B, n) instead of the problem's.
        held: (p,) bool, parameters fixed at their start.
        tolerance: stop when a step gains less than this fraction of the value.

    Returns:
        Parameters (B, p) and values (B,).
    """
    form, sample, target = problem.form, problem.sample, problem.log_loss
    weights = np.atleast_2d(problem.weight if weight is None else weight)
    theta = np.atleast_2d(start)
    n_batch = max(len(weights), len(theta))
    theta = np.repeat(theta, n_batch, 0) if len(theta) == 1 else theta.copy()
    weights = np.broadcast_to(weights, (n_batch, weights.shape[1]))
    fixed = (problem.high <= problem.low) | (False if held is None else held)
    damping = np.full(n_batch, 1e-3)
    value = np.full(n_batch, np.inf)
    live = np.arange(n_batch)
    for _ in range(n_iterations):
        w, now = weights[live], theta[live]
        predicted, slopes = form.gradient(now, sample)
        residual, chain = _residuals(problem, predicted, target)
        cost, robust = _cost(problem, residual)
        value[live] = (w * cost).sum(axis=1)
        factors = np.exp(now[:, : form.n_terms])  # steps are in E, since the gradient with
        jacobian = slopes * chain[..., None]  # respect to ln E vanishes as E approaches 0
        jacobian[..., : form.n_terms] /= factors[:, None]
        pull = np.einsum("bn,bnp->bp", w * robust * residual, jacobian)
        stuck = fixed | ((now <= problem.low) & (pull > 0)) | ((now >= problem.high) & (pull < 0))
        curvature = np.einsum("bnp,bn,bnq->bpq", jacobian, w * robust, jacobian)
        pull = np.where(stuck, 0.0, pull)
        curvature = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, curvature)
        diagonal = np.einsum("bpp->bp", curvature)
        ridge = np.where(stuck, 1.0, np.maximum(diagonal, 1e-12) * damping[live, None] + 1e-18)
        damped = curvature + ridge[:, :, None] * np.eye(theta.shape[1])
        step = np.linalg.solve(damped, pull[..., None])[..., 0]
        trial = now - step
        trial[:, : form.n_terms] = np.log(np.maximum(factors - step[:, : form.n_terms], 1e-300))
        trial = np.where(stuck, now, np.clip(trial, problem.low, problem.high))
        residual, _ = _residuals(problem, form.log_loss(trial, sample), target)
        reached = (w * _cost(problem, residual)[0]).sum(axis=1)
        better = reached <= value[live]
        gain = value[live] - reached
        theta[live] = np.where(better[:, None], trial, now)
        moved = np.abs(trial - now).max(axis=1)
        small = (gain <= tolerance * value[live] + 1e-30) | (moved < 1e-11)
        value[live] = np.where(better, reached, value[live])
        damping[live] = np.clip(damping[live] * np.where(better, 0.2, 8.0), 1e-12, 1e9)
        live = live[~((better & small) | (damping[live] >= 1e9))]
        if not len(live):
            break
    return theta, value
