"""Optima at equal compute: parabolas within budgets, and a surface for comparison.

Owns approaches 2 and 3 of Hoffmann et al. 2022, and their comparison. Approach 2 fits a parabola in
ln N and one in ln D at each budget, whose vertices follow a power of C. Approach 3 is the surface
L(N, D).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.scaling.bootstrap import bootstrap, interval
from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.forms import Chinchilla, Sample
from ladderlm.scaling.result import VERSION, Fit
from ladderlm.scaling.rows import Rows, columns_of
from ladderlm.scaling.solve import OBJECTIVES, Problem, minimise
from ladderlm.scaling.table import group_close

__all__ = ["Bowl", "fit_isoflop", "vertices"]

Array = NDArray[np.float64]
NAMES = {"params": "exponent_params", "tokens": "exponent_tokens"}


@dataclass(frozen=True)
class Bowl:
    """The sizes of one budget, and their optimum in parameters and tokens if there is one."""

    flops: float
    n_rows: int
    problem: str  # reason for leaving out the budget, else ""
    params: tuple[float, ...]
    tokens: tuple[float, ...]
    losses: tuple[float, ...]
    params_opt: float | None = None  # vertex of the parabola in ln N
    params_curvature: float | None = None  # its second coefficient
    tokens_opt: float | None = None
    tokens_curvature: float | None = None
    tokens_per_param_opt: float | None = None  # ratio of the vertices

    def with_ratio(self) -> "Bowl":
        """Return the bowl with `tokens_per_param_opt`."""
        if self.problem or self.params_opt is None or self.tokens_opt is None:
            return self
        return replace(self, tokens_per_param_opt=self.tokens_opt / self.params_opt)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without those that are None."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if value is not None
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Bowl":
        """Read what `to_json` returned."""
        lists = {name: tuple(values[name]) for name in ("params", "tokens", "losses")}
        return cls(**{**values, **lists})


def vertices(log_x: Array, loss: Array, weight: Array) -> tuple[Array, Array]:
    """Fit parabolas loss = p + q x + r x^2 by weighted least squares.

    Args:
        log_x, loss: (n,).
        weight: (..., n).

    Returns:
        Vertex (...) in the units of log_x, NaN if the parabola opens downwards, and r (...).
    """
    middle = log_x.mean()
    design = np.stack([np.ones_like(log_x), log_x - middle, (log_x - middle) ** 2], axis=-1)
    normal = np.einsum("...n,np,nq->...pq", weight, design, design)
    right = np.einsum("...n,np,n->...p", weight, design, loss)
    ridge = 1e-12 * np.trace(normal, axis1=-2, axis2=-1)[..., None, None] * np.eye(3)
    solved = np.linalg.solve(normal + ridge, right[..., None])[..., 0]
    curvature = solved[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.where(curvature > 0, middle - solved[..., 1] / (2 * curvature), np.nan)
    return vertex, curvature


def fit_isoflop(rows: Rows, options: FitOptions) -> Fit:
    """Find N* and D* at each budget and their exponents in C.

    Raises:
        DataError: fewer than two budgets have an optimum within their sizes.
    """
    table = rows.table.take(rows.fitted)
    columns, warnings = columns_of(table, ("params", "tokens", "flops"))
    loss = table.numbers("loss")
    budgets = group_close(columns["flops"])
    rng = np.random.default_rng(options.seed)
    bowls, log_c = [], []
    drawn: dict[str, list[Array]] = {"params": [], "tokens": []}
    for budget in np.unique(budgets):
        own = budgets == budget
        bowl = _bowl(columns, loss, own)
        bowls.append(bowl)
        if bowl["problem"]:
            warnings.append(f"budget {bowl['flops']:.3g}: {bowl['problem']}; left out")
            continue
        log_c.append(np.log(bowl["flops"]))
        n = bowl["n_rows"]
        weight = rng.multinomial(n, np.full(n, 1 / n), size=options.draws).astype(float)
        for name, found in drawn.items():
            log_x = np.log(columns[name][own])
            vertex, _ = vertices(log_x, loss[own], weight)
            near = np.abs(vertex - log_x.mean()) < 2 * np.ptp(log_x)
            found.append(np.where(near, vertex, np.nan))
    good = [bowl for bowl in bowls if not bowl["problem"]]
    if len(good) < 2:
        raise DataError(
            f"{len(good)} of {len(bowls)} budgets have an optimum inside of their sizes",
            "an exponent needs at least two",
            "add sizes on both sides of the best one at each budget (budgets within 1 % are one)",
        )
    excluded = Counter(rows.excluded)
    for bowl in bowls:
        if bowl["problem"]:
            excluded[bowl["problem"]] += bowl["n_rows"]
    parameters, intervals = _exponents(good, drawn, np.array(log_c))
    surface = _surfaces(columns, loss, options)
    warnings += _compare_ways(parameters, intervals, surface)
    return Fit(
        form="isoflop",
        parameters=parameters,
        intervals=intervals,
        objective={"name": "least-squares", "value": None, "beside": surface},
        identified={},
        n_used=sum(bowl["n_rows"] for bowl in good),
        excluded=dict(excluded),
        holdout=[],
        warnings=warnings,
        card={
            "form": "loss = p + q ln N + r (ln N)^2 at each budget; N* = G C^a; the same for D",
            "loss": options.loss,
            "objective": OBJECTIVES["least-squares"] + ", each budget by itself",
            "surface": Chinchilla.formula,
            "n_budgets": len(good),
            "bootstrap": f"{options.draws} draws of rows within budgets, seed {options.seed}",
            "excluded": dict(excluded),
            "version": VERSION,
        },
        details={"bowls": bowls, "surface": surface},
    )


def _bowl(columns: dict[str, Array], loss: Array, own: NDArray[np.bool_]) -> dict[str, Any]:
    """Find the optimum of one budget in parameters and tokens."""
    bowl: dict[str, Any] = {
        "flops": float(np.exp(np.log(columns["flops"][own]).mean())),
        "n_rows": int(own.sum()),
        "problem": "",
        "params": columns["params"][own].tolist(),
        "tokens": columns["tokens"][own].tolist(),
        "losses": loss[own].tolist(),
    }
    for name in NAMES:
        log_x = np.log(columns[name][own])
        if len(np.unique(group_close(columns[name][own]))) < 4:
            return bowl | {"problem": "fewer than 4 sizes"}
        vertex, curvature = vertices(log_x, loss[own], np.ones(len(log_x)))
        if not curvature > 0:
            return bowl | {"problem": "the parabola opens downwards"}
        if not log_x.min() < vertex < log_x.max():
            return bowl | {"problem": "the optimum lies outside of the sizes"}
        bowl[f"{name}_opt"], bowl[f"{name}_curvature"] = float(np.exp(vertex)), float(curvature)
    return bowl


def _exponents(
    good: list[dict[str, Any]], drawn: dict[str, list[Array]], log_c: Array
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Regress the optima on compute, with intervals from the draws."""
    centred = log_c - log_c.mean()
    parameters, intervals = {}, {}
    for name, short in NAMES.items():
        best = np.log([bowl[f"{name}_opt"] for bowl in good])
        slope = float(centred @ best / (centred @ centred))
        parameters[short] = slope
        parameters[f"factor_{name}"] = float(np.exp(best.mean() - slope * log_c.mean()))
        draws = np.stack(drawn[name], axis=-1) @ centred / (centred @ centred)
        intervals[short] = interval(draws[np.isfinite(draws)])
    return parameters, intervals


def _surfaces(columns: dict[str, Array], loss: Array, options: FitOptions) -> dict[str, Any]:
    """Fit L(N, D) to the same rows with both objectives; D* ~ C^(alpha / (alpha + beta))."""
    sample = Sample.of({name: columns[name] for name in Chinchilla.columns})
    found: dict[str, Any] = {}
    for objective in ("huber", "least-squares"):
        problem = Problem.of(Chinchilla(), sample, loss, objective)
        if len(loss) <= problem.form.n_params:
            return found
        solution = minimise(problem)
        draws = bootstrap(problem, solution, np.arange(len(loss)), min(options.draws, 300))
        public = {k: float(v) for k, v in problem.form.public(solution.theta, sample).items()}
        alpha, beta = draws[:, 3], draws[:, 4]
        found[objective] = {
            "parameters": public,
            "exponent_tokens": public["alpha"] / (public["alpha"] + public["beta"]),
            "interval": interval(alpha / (alpha + beta)),
        }
    return found


def _compare_ways(
    parameters: dict[str, float], intervals: dict[str, tuple[float, float]], surface: dict[str, Any]
) -> list[str]:
    """Warn of disagreement between the approaches."""
    found = []
    total = parameters["exponent_params"] + parameters["exponent_tokens"]
    if abs(total - 1) > 0.03:
        found.append(
            f"the exponents of N* and D* add to {total:.3f}, not 1: N and D do not make up the "
            "same compute at every budget"
        )
    own, (low, high) = parameters["exponent_tokens"], intervals["exponent_tokens"]
    exponents = {objective: fit["exponent_tokens"] for objective, fit in surface.items()}
    apart = [
        f"{objective} {b:.3f}"
        for objective, b in exponents.items()
        if not low <= b <= high and abs(b - own) > 0.02
    ]
    if apart:
        found.append(
            f"parabolas and surface disagree on D* = G C^b: b = {own:.3f} by parabolas (95 % "
            f"{low:.3f} to {high:.3f}), by the surface {', '.join(apart)}; neither is preferred"
        )
    return found
