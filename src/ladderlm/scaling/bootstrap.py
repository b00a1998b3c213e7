"""The uncertainty of a fit.

Owns the bootstrap over clusters of runs, the profile of E, and whether the points identify E. Every
refit starts from the full fit (see `solve.refit`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ladderlm.scaling.solve import Problem, Solution, refit

__all__ = ["FloorProfile", "bootstrap", "draw_weights", "interval", "profile_floor"]

Array = NDArray[np.float64]
WIDEST_FLOOR = 0.15  # of the smallest loss: widest interval of an identified E


def draw_weights(
    clusters: NDArray[np.int64], n_draws: int, n_needed: int, rng: np.random.Generator
) -> Array:
    """Draw clusters with replacement, and return how often each row was drawn: (n_draws, n).

    Draws of fewer than `n_needed` different clusters cannot be fitted and are repeated.
    Source: Efron 1979; clusters: Davison and Hinkley 1997, section 3.8.
    """
    ids, member = np.unique(clusters, return_inverse=True)
    n = len(ids)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=n_draws)
    for _ in range(1000):
        poor = np.flatnonzero((counts > 0).sum(axis=1) < min(n_needed, n))
        if not len(poor):
            break
        counts[poor] = rng.multinomial(n, np.full(n, 1 / n), size=len(poor))
    return counts[:, member].astype(float)


def bootstrap(
    problem: Problem,
    solution: Solution,
    clusters: NDArray[np.int64],
    n_draws: int = 1000,
    seed: int = 0,
) -> Array:
    """Return the parameters of refits to resampled clusters: (n_draws, p)."""
    rng = np.random.default_rng(seed)
    weights = draw_weights(clusters, n_draws, problem.form.n_needed, rng) * problem.weight
    return refit(problem, solution.theta, weight=weights, n_iterations=100, tolerance=1e-7)[0]


def interval(draws: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of draws."""
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class FloorProfile:
    """The profile of E: the best objective at each fixed E."""

    floors: tuple[float, ...]  # values of E
    values: tuple[float, ...]  # of the objective there
    low: float  # ends of the 95 % interval of E
    high: float
    identified: bool  # the interval is narrow and does not contain 0
    reason: str  # of `identified`

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "floors": list(self.floors), "values": list(self.values)}


def profile_floor(
    problem: Problem, solution: Solution, other_floor: float, n: int = 60
) -> FloorProfile:
    """Fix E at values up to the smallest loss and refit the other parameters.

    E is allowed where the objective grows by less than the factor 1 + F(0.95; 1, n - p) / (n - p)
    (the likelihood profile of least squares: Bates and Watts 1988, section 6.1; for Huber it is an
    approximation).

    Args:
        other_floor: E under the other objective; E is identified only if the interval contains it.
    """
    smallest = float(np.exp(problem.log_loss.min()))
    best = float(np.exp(solution.theta[0]))
    grid = np.linspace(1e-3, 0.999, n) * smallest
    floors = np.unique(np.append(grid, min(best, 0.999 * smallest)))
    values = _held_floors(problem, solution, floors)
    freedom = max(len(problem.log_loss) - problem.form.n_params, 1)
    least = min(float(values.min()), solution.value)
    allowed = least * (1 + float(stats.f.ppf(0.95, 1, freedom)) / freedom) + 1e-12
    inside = np.flatnonzero(values <= allowed)
    first, last = int(inside.min()), int(inside.max())
    below = np.linspace(floors[max(first - 1, 0)], floors[first], n // 4)
    above = np.linspace(floors[last], floors[min(last + 1, len(floors) - 1)], n // 4)
    fine = np.concatenate([below, above])
    inside_fine = fine[_held_floors(problem, solution, fine) <= allowed]
    low = 0.0 if first == 0 else float(min(inside_fine.min(), floors[first]))
    high = float(max(inside_fine.max(), floors[last]))
    shown = f"95 % of the profile: {low:.3g} to {high:.3g}"
    identified = False
    if low == 0.0:
        reason = f"E may as well be 0 ({shown})"
    elif high - low > WIDEST_FLOOR * smallest:
        reason = f"points allow E within {shown}"
    elif not low - 0.02 * smallest <= other_floor <= high + 0.02 * smallest:
        reason = f"the two objectives disagree: {best:.3g} and {other_floor:.3g} ({shown})"
    else:
        identified, reason = True, shown
    profile = tuple(floors.tolist()), tuple(values.tolist())
    return FloorProfile(*profile, low, high, identified, reason)


def _held_floors(problem: Problem, solution: Solution, floors: Array) -> Array:
    """Return the best objective with E fixed at each floor."""
    start = np.tile(solution.theta, (len(floors), 1))
    start[:, 0] = np.log(floors)
    held = np.zeros(problem.form.n_params, dtype=bool)
    held[0] = True
    return refit(problem, start, held=held, n_iterations=200, tolerance=1e-9)[1]
