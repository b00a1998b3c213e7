"""Power laws of any column in one or more others: y = c x1^p1 x2^p2 ...

Owns the regression in logarithms (best learning rate or batch in N and D, optima in C) and the
optional choice of the rows near each cell's best loss.
"""

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.scaling.bootstrap import interval
from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.result import VERSION, Fit
from ladderlm.scaling.rows import Rows, label_rows
from ladderlm.scaling.solve import other_objective
from ladderlm.scaling.table import Table

__all__ = ["fit_power_law"]

Array = NDArray[np.float64]
TUNING = 1.345  # of Huber in residual sd: 95 % efficient for normal errors (Huber 1981)


def fit_power_law(rows: Rows, options: FitOptions) -> Fit:
    """Fit ln y = ln c + sum_i p_i ln x_i.

    With `optimum`, each combination of x, params and tokens is a cell. Its y is the geometric mean
    over the rows whose optimum column is within `within` of the cell's smallest. Source of such
    laws: Li et al. 2025 (2503.04715), section 4; the choice of rows is ours.

    Raises:
        DataError: there are too few points, or the x do not vary independently.
    """
    table = rows.table.take(rows.fitted)
    names = options.x_column or ("params", "tokens")
    x = np.log(np.stack([table.numbers(name) for name in names], axis=-1))
    y = np.log(table.numbers("loss"))
    excluded = dict(rows.excluded)
    labels = label_rows(table)
    if options.optimum is not None:
        x, y, n_left = _centres(table, x, y, options)
        excluded[f"not within {options.within:.2%} of the best {options.optimum}"] = n_left
        labels = [{"line": None, "label": ""} for _ in y]
    design = np.column_stack([np.ones(len(y)), x - x.mean(axis=0)])
    _check_design(design, names)
    n_points, n_params = design.shape
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    sd = float(np.sqrt(((y - design @ solution) ** 2).sum() / (n_points - n_params)))
    middle = x.mean(axis=0)
    chosen, other = _huber(design, y), solution
    if options.objective == "least-squares":
        chosen, other = other, chosen
    keys = ["factor", *(f"exponent_{name}" for name in names)]
    spread = _public(_draw_solutions(design, y, options), middle)
    predicted = design @ chosen
    warnings = []
    if n_points - n_params < 3:
        warnings.append(f"{n_points} points for {n_params} parameters: hardly any to spare")
    return Fit(
        form="powerlaw-nd",
        parameters=dict(zip(keys, _public(chosen, middle).tolist(), strict=True)),
        intervals={key: interval(spread[:, i]) for i, key in enumerate(keys)},
        objective={
            "name": options.objective,
            "value": float(((y - predicted) ** 2).sum()),
            "beside": {
                "name": other_objective(options.objective),
                "parameters": dict(zip(keys, _public(other, middle).tolist(), strict=True)),
            },
        },
        identified={},
        n_used=len(y),
        excluded={k: n for k, n in excluded.items() if n},
        holdout=[],
        warnings=warnings,
        card={
            "form": f"ln {options.loss} = ln factor + " + " + ".join(f"p ln {n}" for n in names),
            "objective": "least squares on logarithms; Huber with delta 1.345 residual sd",
            "n_used": len(y),
            "residual_sd": sd,
            "bootstrap": f"{options.draws} draws of points, seed {options.seed}",
            "excluded": excluded,
            "version": VERSION,
        },
        rows=[
            row
            | {name: float(np.exp(value)) for name, value in zip(names, x_row, strict=True)}
            | {"predicted": float(np.exp(p)), "actual": float(np.exp(a))}
            | {"relative_error": float(np.expm1(p - a))}
            for row, x_row, p, a in zip(labels, x, predicted, y, strict=True)
        ],
    )


def _centres(table: Table, x: Array, y: Array, options: FitOptions) -> tuple[Array, Array, int]:
    """Return the centre of the near-optimal rows of each cell, and the number of other rows."""
    best = table.numbers(options.optimum or "")
    sizes = [table.numbers(name) for name in ("params", "tokens") if name in table]
    keys = np.column_stack([x, *map(np.log, sizes)]).round(9)
    cells, member = np.unique(keys, axis=0, return_inverse=True)
    member = member.reshape(-1)
    centres, n_left = [], 0
    for cell in range(len(cells)):
        own = member == cell
        near = own & (best <= best[own].min() * (1 + options.within))
        centres.append(float(y[near].mean()))
        n_left += int(own.sum() - near.sum())
    return cells[:, : x.shape[1]], np.array(centres), n_left


def _check_design(design: Array, names: tuple[str, ...]) -> None:
    n, p = design.shape
    if n <= p:
        raise DataError(
            f"{n} points for {p} parameters",
            "a fit needs at least one more point than parameters to estimate its error",
            "add rows",
        )
    if np.linalg.matrix_rank(design, tol=1e-6 * n) < p:
        raise DataError(
            f"{' and '.join(names)} do not vary independently",
            "their exponents cannot be told apart",
            "name fewer with --x-column, or add rows",
        )


def _huber(design: Array, y: Array) -> Array:
    """Minimise the Huber loss, with a scale from the median absolute residual."""
    weight = np.ones(len(y))
    solution = np.zeros(design.shape[1])
    for _ in range(50):
        root = np.sqrt(weight)
        solution = np.asarray(np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0])
        size = np.abs(y - design @ solution)
        limit = TUNING * max(float(np.median(size)) / 0.6745, 1e-12)
        weight = np.minimum(1.0, limit / np.maximum(size, 1e-300))
    return solution


def _draw_solutions(design: Array, y: Array, options: FitOptions) -> Array:
    """Refit points drawn with replacement; draws with a singular design are skipped."""
    rng = np.random.default_rng(options.seed)
    n = len(y)
    weight = rng.multinomial(n, np.full(n, 1 / n), size=options.draws).astype(float)
    normal = np.einsum("bn,np,nq->bpq", weight, design, design)
    right = np.einsum("bn,np,n->bp", weight, design, y)
    sound = np.linalg.cond(normal) < 1e10
    return np.asarray(np.linalg.solve(normal[sound], right[sound][..., None])[..., 0])


def _public(solution: Array, middle: Array) -> Array:
    """Return factor and exponents, with the centring undone."""
    slopes = solution[..., 1:]
    factor = np.exp(solution[..., :1] - (slopes @ middle)[..., None])
    return np.concatenate([factor, slopes], axis=-1)
