"""Fit the forms that are sums of terms: power, quadratic, chinchilla, overtraining, joint.

Owns the fit of chosen rows: both objectives, intervals, the profile of E and hold-outs.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.scaling.bootstrap import bootstrap, interval, profile_floor
from ladderlm.scaling.compare import compare_arms
from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.forms import Chinchilla, Form, OverTraining, PowerLaw, Sample
from ladderlm.scaling.joint import TOLERANCE
from ladderlm.scaling.joint_form import Joint, Quadratic
from ladderlm.scaling.points import Points
from ladderlm.scaling.result import VERSION, Fit
from ladderlm.scaling.rows import Rows, columns_of, label_rows, row_clusters
from ladderlm.scaling.solve import (
    DELTA,
    OBJECTIVES,
    Problem,
    Solution,
    minimise,
    other_objective,
    refit,
)
from ladderlm.scaling.table import Table, group_close
from ladderlm.scaling.warn import find_confounds, warn_of_fit

__all__ = ["fit_form"]

Array = NDArray[np.float64]
HOLDOUT_DRAWS = 200
FORMS: dict[str, type[Form]] = {
    form.name: form for form in (PowerLaw, Quadratic, Chinchilla, OverTraining, Joint)
}


def fit_form(rows: Rows, options: FitOptions) -> Fit:
    """Fit a form, or raise DataError if there are too few rows or a column does not vary."""
    table = rows.table
    arms, codes = _arms(table, options)
    form: Form = FORMS[options.form]()
    lengths, length = _branch_lengths(table, options)
    if options.form == "joint":
        form = Joint(len(arms) - 1, branches=len(lengths) - 1)
    columns, warnings = columns_of(table, form.columns)
    weight = table.numbers("weight") if "weight" in table else np.ones(len(table))
    sample, loss = Sample.of(columns, codes, length), table.numbers("loss")
    problem = Problem.of(form, sample, loss, options.objective, weight, form.has_floor)
    fitted = problem.where(rows.fitted)
    _check_fittable(form, columns, rows.fitted, codes)
    solution = minimise(fitted)
    other = other_objective(options.objective)
    second = minimise(replace(fitted, objective=other))
    clusters = row_clusters(table)[rows.fitted]
    draws = bootstrap(fitted, solution, clusters, options.draws, options.seed)
    if (n_clusters := len(np.unique(clusters))) <= form.n_needed:
        warnings.append(
            f"{n_clusters} clusters for {form.n_needed} parameters: a bootstrap can only draw all "
            "of them, so the intervals of the parameters say nothing"
        )
    spread = form.public(draws, fitted.sample)
    names = _names(list(spread), arms, lengths)
    intervals = {names[k]: interval(v) for k, v in spread.items()}
    parameters = _named(fitted, solution.theta, names)
    other_parameters = _named(fitted, second.theta, names)
    rungs = _rungs(table, columns)
    holdout = _score_holdouts(problem, rows.fitted, solution, rungs, label_rows(table), columns)
    own_rungs, own_table = rungs[rows.fitted], table.take(rows.fitted)
    details: dict[str, Any] = {}
    warnings += find_confounds(table, rows.fitted)
    warnings += warn_of_fit(parameters, other_parameters, intervals, other, columns, rows.fitted)
    identified: dict[str, Any] = {}
    if form.has_floor:
        profile = profile_floor(fitted, solution, float(np.exp(second.theta[0])))
        details["profile"] = profile.to_json()
        identified = {"E": profile.identified, "reason": profile.reason}
        if not profile.identified:
            warnings.append(f"E is not identified by these points: {profile.reason}")
    details["leave_one_out"] = _leave_one_out(fitted, solution, own_rungs, names)
    if len(arms) > 1:
        flops = columns["flops"][rows.fitted]
        details["comparisons"] = _compare_arms(own_table, arms, flops, own_rungs)
    warnings += _warn(fitted, solution, holdout)
    return Fit(
        form=form.name,
        parameters=parameters,
        intervals=intervals,
        objective={
            "name": options.objective,
            "value": solution.value,
            "beside": {"name": other, "value": second.value, "parameters": other_parameters},
        },
        identified=identified,
        n_used=int(rows.fitted.sum()),
        excluded=rows.excluded,
        holdout=holdout,
        warnings=warnings,
        card=_card(form, options, solution, fitted, rows, columns, arms),
        details=details,
        rows=_predict(fitted, solution, label_rows(own_table)),
    )


def _arms(table: Table, options: FitOptions) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of arms, the baseline first, and the index of each row's arm."""
    if options.form != "joint":
        return ["all"], np.zeros(len(table), dtype=np.int64)
    given = table.text("arm")
    arms = list(dict.fromkeys(given))
    baseline = arms[0] if options.baseline is None else options.baseline
    if baseline not in arms:
        raise DataError(f"no arm {baseline!r}", fix=f"name one of {', '.join(arms)}")
    if len(arms) < 2:
        raise DataError(
            f"one arm: {arms[0]}; a comparison needs two",
            fix="add rows of another arm, or choose fewer rows with --where",
        )
    arms.sort(key=lambda arm: arm != baseline)  # stable: the baseline comes first
    return arms, np.array([arms.index(arm) for arm in given], dtype=np.int64)


def _branch_lengths(table: Table, options: FitOptions) -> tuple[list[float], NDArray[np.int64]]:
    """Return the values of the column `branch`, 1 first, and the index of each row's value."""
    if options.form != "joint" or "branch" not in table:
        return [1.0], np.zeros(len(table), dtype=np.int64)
    given = table.numbers("branch").tolist()
    lengths = sorted(set(given), key=lambda b: (b != 1, b))
    return lengths, np.array([lengths.index(b) for b in given], dtype=np.int64)


def _names(public: list[str], arms: list[str], lengths: list[float]) -> dict[str, str]:
    """Name k0 and k1 of several variants by their arms, and ln r by its length."""
    found = {name: name for name in public}
    for name in public:
        kind, _, place = name.partition("_")
        if name.startswith("ln_r"):
            found[name] = f"ln_r[{lengths[int(name.rpartition('_')[2].strip('r') or 1)]:g}]"
        elif kind in ("k0", "k1") and len(arms) > 2:
            found[name] = f"{kind}[{arms[int(place or 1)]}]"
    return found


def _named(problem: Problem, theta: Array, names: dict[str, str]) -> dict[str, float]:
    """Return the parameters under their names."""
    return {names[k]: float(v) for k, v in problem.form.public(theta, problem.sample).items()}


def _check_fittable(
    form: Form, columns: dict[str, Array], fitted: NDArray[np.bool_], codes: NDArray[np.int64]
) -> None:
    """Raise DataError if there are too few rows, or a column does not vary."""
    n = int(fitted.sum())
    if n <= form.n_free:
        raise DataError(
            f"{n} rows for the {form.n_free} parameters of {form.formula}",
            "a fit needs at least one more row than parameters to estimate its error",
            "add runs, or fit a form with fewer parameters",
        )
    needed = 3 if len(columns) == 1 else 2
    for name, values in columns.items():
        n_values = len(np.unique(group_close(values[fitted], 1e-6)))
        if n_values < needed:
            raise DataError(
                f"{name} has {n_values} different value{'s' * (n_values > 1)} in the fitted rows",
                f"the slope in {name} and a floor need {needed}",
                "add runs of other sizes",
            )
    if len(np.unique(codes[fitted])) < len(np.unique(codes)):
        raise DataError("an arm has no fitted row", fix="choose rows of every arm with --fit-on")


def _rungs(table: Table, columns: dict[str, Array]) -> NDArray[np.int64]:
    """Number the rungs by the column `rung`, else by sizes if there are any, else by budgets.

    Rungs whose names are not numbers are sorted by the smallest size or budget of each.
    """
    sizes = columns["params"] if "params" in columns else columns["flops"]
    if "rung" not in table:
        return group_close(sizes)
    names = np.array(table.text("rung"), dtype=np.str_)
    try:
        places = names.astype(np.float64)
    except ValueError:
        places = np.array([sizes[names == name].min() for name in names])
    return np.asarray(np.unique(places, return_inverse=True)[1], dtype=np.int64)


def _predict(
    problem: Problem, solution: Solution, labels: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    predicted = np.exp(problem.form.log_loss(solution.theta, problem.sample))
    actual = np.exp(problem.log_loss)
    return [
        row | {"predicted": float(p), "actual": float(a), "relative_error": float(p / a - 1)}
        for row, p, a in zip(labels, predicted, actual, strict=True)
    ]


def _sigma(problem: Problem, solution: Solution) -> float:
    """Return the residual sd of ln L."""
    residual = problem.form.log_loss(solution.theta, problem.sample) - problem.log_loss
    freedom = max(len(residual) - problem.form.n_free, 1)
    return float(np.sqrt((residual**2).sum() / freedom))


def _score_holdouts(
    problem: Problem,
    fitted: NDArray[np.bool_],
    solution: Solution,
    rungs: NDArray[np.int64],
    labels: list[dict[str, Any]],
    columns: dict[str, Array],
) -> list[dict[str, Any]]:
    """Predict the rows not fitted, and the top one and two rungs from those below."""
    found = []
    if not fitted.all():
        found.append(_score_holdout("rows not fitted", problem, fitted, ~fitted, labels, solution))
    present = np.unique(rungs[fitted])
    for n in (1, 2):
        held = fitted & np.isin(rungs, present[-n:])
        kept = fitted & ~held
        if not held.any() or kept.sum() <= problem.form.n_free or len(present) < n + 2:
            continue
        if any(len(np.unique(v[kept])) < 2 for v in columns.values()):
            continue
        name = "top rung" if n == 1 else "top two rungs"
        found.append(_score_holdout(name, problem, kept, held, labels))
    return found


def _score_holdout(
    name: str,
    problem: Problem,
    kept: NDArray[np.bool_],
    held: NDArray[np.bool_],
    labels: list[dict[str, Any]],
    solution: Solution | None = None,
) -> dict[str, Any]:
    """Fit some rows and predict others: error = predicted / actual - 1."""
    below, above = problem.where(kept), problem.where(held)
    solution = solution or minimise(below, polish=False)
    draws = bootstrap(below, solution, np.arange(int(kept.sum())), HOLDOUT_DRAWS)
    spread = problem.form.log_loss(draws, above.sample).std(axis=0)
    sigma = np.hypot(spread, _sigma(below, solution))
    rows = _predict(above, solution, [row for row, h in zip(labels, held, strict=True) if h])
    for row, s in zip(rows, sigma, strict=True):
        row["sigma"] = float(s)
        row["passed"] = bool(abs(row["relative_error"]) < max(2 * s, TOLERANCE))
    worst = max((row["relative_error"] for row in rows), key=abs)
    return {
        "held": name,
        "n_fitted": int(kept.sum()),
        "rows": rows,
        "worst_error": worst,
        "within_half_a_percent": abs(worst) < TOLERANCE,
        "passed": all(row["passed"] for row in rows),
    }


def _compare_arms(
    table: Table, arms: list[str], flops: Array, rungs: NDArray[np.int64]
) -> dict[str, Any]:
    """Compare each variant with the baseline in pairs, if there are columns of rung and seed."""
    lacking = [name for name in ("rung", "seed") if name not in table]
    if lacking:
        return {arm: {"problem": f"no column {lacking[0]}: no pairs"} for arm in arms[1:]}
    points = Points(
        arm=np.array(table.text("arm"), dtype=np.str_),
        rung=rungs,
        seed=np.unique(table.text("seed"), return_inverse=True)[1].astype(np.int64),
        x=flops,
        loss=table.numbers("loss"),
        branch=table.numbers("branch") if "branch" in table else np.ones(len(table)),
    )
    found: dict[str, Any] = {}
    for arm in arms[1:]:
        try:
            found[arm] = compare_arms(points, arms[0], arm).to_json()
        except DataError as error:
            found[arm] = {"problem": str(error)}
    return found


def _leave_one_out(
    problem: Problem, solution: Solution, rungs: NDArray[np.int64], names: dict[str, str]
) -> list[dict[str, Any]]:
    """Refit without each rung in turn."""
    present = np.unique(rungs)
    if len(present) < 4:
        return []
    weights = np.stack([problem.weight * (rungs != rung) for rung in present])
    theta, _ = refit(problem, solution.theta, weight=weights)
    predicted = problem.form.log_loss(theta, problem.sample)
    found = []
    for i, rung in enumerate(present):
        own = rungs == rung
        errors = np.expm1(predicted[i, own] - problem.log_loss[own])
        found.append(
            {
                "rung": int(rung),
                "n_rows": int(own.sum()),
                "worst_error": float(errors[np.argmax(np.abs(errors))]),
                "parameters": _named(problem, theta[i], names),
            }
        )
    return found


def _warn(problem: Problem, solution: Solution, holdout: list[dict[str, Any]]) -> list[str]:
    found = []
    freedom = len(problem.log_loss) - problem.form.n_free
    if freedom < 3:
        found.append(
            f"{len(problem.log_loss)} rows for {problem.form.n_free} parameters: the bootstrap "
            "knows little of the error of so few"
        )
    at_bound = (solution.theta <= problem.low) | (solution.theta >= problem.high)
    if at_bound[problem.form.n_terms :].any():
        found.append("an exponent lies on the bound of its range: the form does not suit them")
    for test in holdout:
        failed = [row for row in test["rows"] if not row["passed"]]
        if failed:
            worst = max(failed, key=lambda row: abs(row["relative_error"]))
            found.append(
                f"hold-out failed: {len(failed)} of {len(test['rows'])} ({test['held']}), worst "
                f"{worst['relative_error']:+.1%} at line {worst['line']} {worst['label']}".rstrip()
            )
    return found


def _card(
    form: Form,
    options: FitOptions,
    solution: Solution,
    problem: Problem,
    rows: Rows,
    columns: dict[str, Array],
    arms: list[str],
) -> dict[str, Any]:
    drawn = "the column cluster" if "cluster" in rows.table else "rows"
    fitted = {name: values[rows.fitted] for name, values in columns.items()}
    return {
        "form": form.formula,
        "loss": options.loss,
        "objective": OBJECTIVES[options.objective],
        "delta": DELTA if options.objective == "huber" else None,
        "optimizer": "variable projection (NNLS), L-BFGS-B with restarts, Gauss-Newton",
        "starts": solution.n_starts,
        "starts_that_agree": solution.n_agreeing,
        "n_used": int(rows.fitted.sum()),
        "n_parameters": form.n_free,
        "excluded": rows.excluded,
        "weights": "column weight" if "weight" in rows.table else "all rows alike",
        "bootstrap": f"{options.draws} draws of {drawn}, seed {options.seed}",
        "ranges": {name: [float(v.min()), float(v.max())] for name, v in fitted.items()},
        "arms": arms if options.form == "joint" else None,
        "residual_sd": _sigma(problem, solution),
        "version": VERSION,
    }
