"""From the table of a study to its fits and verdicts.

Owns `fits.json`: the law, the comparison of every variant with the baseline over every axis and
subset, hold-outs and verdicts.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.eval.bootstrap import holm
from ladderlm.scaling.compare import Comparison, compare_arms
from ladderlm.scaling.joint import fit_card, fit_law, holdout_errors
from ladderlm.scaling.points import Points
from ladderlm.study.asides import incomparable_times
from ladderlm.study.documents import resample_documents
from ladderlm.study.results import Row, points_of
from ladderlm.study.spec import StudySpec
from ladderlm.study.tuning import Tuning, rate_shift
from ladderlm.study.verdict import decide

__all__ = ["analyse"]


def analyse(
    spec: StudySpec,
    rows: list[Row],
    tunings: Sequence[Tuning] = (),
    pool: Path | None = None,
) -> dict[str, Any]:
    """Fit, compare and judge.

    Args:
        tunings: what is known of the rates of the arms that were tuned.
        pool: folder of the runs, for the losses of single documents; None leaves that out.

    Returns:
        For `fits.json`: the law, a comparison and a verdict per variant, the same at equal device
        time and tokens and per subset, hold-out errors, the fit card, which runs' times do not
        compare, and why anything is missing.
    """
    ladder = [row for row in rows if row["role"] == "ladder"]
    excluded = {r["run_id"]: r["excluded_because"] for r in ladder if r["excluded_because"]}
    points, baseline, budgets = points_of(rows), spec.arms[0].name, spec.ladder.flops
    times = {} if pool is None else incomparable_times(rows, pool)
    result: dict[str, Any] = {"study": spec.name, "loss": "bits_per_byte", "excluded": excluded}
    result["incomparable_times"] = times
    if not any(row["status"] == "finished" for row in rows):
        problem = "no run of this study has finished; start them: ladderlm study run"
        return result | {"problem": problem, "variants": []}
    try:
        law = fit_law(points, baseline)
    except DataError as error:
        return result | {"problem": str(error), "variants": []}
    holdout = _holdout(points, spec.ladder.holdout, baseline)
    shifts = {arm.name: rate_shift(tunings, (baseline, arm.name), budgets) for arm in spec.arms[1:]}
    compared = {name: _compare(points, baseline, name, shifts[name]) for name in shifts}
    found = {name: c for name, c in compared.items() if isinstance(c, Comparison)}
    adjusted = _holm({name: comparison.pooled.p_value for name, comparison in found.items()})
    result |= {"law": law.to_json(), "card": fit_card(law, points, excluded), "holdout": holdout}
    timed = [row for row in rows if row["run_id"] not in times]
    variants = []
    for name, comparison in compared.items():
        if isinstance(comparison, str):
            variants.append({"variant": name, "problem": comparison})
            continue
        p = adjusted[name] if len(adjusted) > 1 else None
        judged = _judge(spec, comparison, holdout, p, tunings)
        for axis, left in (("device_seconds", timed), ("tokens", rows)):
            judged[f"at_equal_{axis}"] = _at_equal(axis, left, comparison, shifts[name])
        if "problem" in judged["at_equal_device_seconds"] and times:
            problem = judged["at_equal_device_seconds"]["problem"].splitlines()[0]
            judged["at_equal_device_seconds"]["problem"] = f"{problem}; {_list_reasons(times)}"
        judged["lengths"] = _by_length(points, baseline, name, shifts[name])
        judged["subsets"] = _by_subset(rows, baseline, name, shifts[name])
        if pool is not None:
            judged["documents"] = resample_documents(rows, pool, comparison)
        variants.append(judged)
    return result | {"variants": variants}


def _compare(
    points: Points, baseline: str, variant: str, shift: NDArray[np.float64] | None
) -> Comparison | str:
    """Give a comparison, or why there is none."""
    try:
        return compare_arms(points, baseline, variant, shift)
    except DataError as error:
        return str(error)


def _holdout(points: Points, n_rungs: int, baseline: str) -> list[dict[str, Any]] | None:
    if n_rungs == 0:
        return None
    try:
        return holdout_errors(points, n_rungs, baseline)
    except DataError:
        return None


def _judge(
    spec: StudySpec,
    comparison: Comparison,
    holdout: list[dict[str, Any]] | None,
    adjusted_p: float | None,
    tunings: Sequence[Tuning],
) -> dict[str, Any]:
    baseline, variant = comparison.baseline, comparison.variant
    passed = None
    if holdout is not None:
        passed = all(row["passed"] for row in holdout if row["arm"] in (baseline, variant))
    both = [tuning for tuning in tunings if tuning.arm in (baseline, variant)]
    verdict = decide(
        comparison,
        tuned=len(both) == 2 and all(tuning.done for tuning in both),
        rate_problem=next((f"arm {t.arm}: {t.problem}" for t in both if t.problem), None),
        holdout_passed=passed,
        demonstration=spec.demonstration,
        adjusted_p=adjusted_p,
    )
    judged = {"variant": variant, "comparison": comparison.to_json()}
    judged["verdict"] = asdict(verdict) | {"text": verdict.text, "p_holm": adjusted_p}
    return judged


def _at_equal(
    axis: str, rows: list[Row], comparison: Comparison, shift: NDArray[np.float64] | None
) -> dict[str, Any]:
    """Compare over another axis; {"problem"} where that cannot be done."""
    try:
        points = points_of(rows, x=axis)
        return compare_arms(points, comparison.baseline, comparison.variant, shift).to_json()
    except (DataError, ValueError) as error:
        return {"problem": str(error)}


def _list_reasons(times: dict[str, str]) -> str:
    """Count why times were left out."""
    counts = Counter(times.values())
    return "left out: " + "; ".join(f"{n} runs {why}" for why, n in sorted(counts.items()))


def _by_subset(
    rows: list[Row], baseline: str, variant: str, shift: NDArray[np.float64] | None
) -> dict[str, Any]:
    """Give the pooled multiplier of every subset that all runs were scored on.

    Many subsets make some look different by chance, so p is adjusted by Holm's rule. What a wrong
    rate costs is taken to be the same, in ln loss, on every subset.
    """
    both = [r for r in rows if r["arm"] in (baseline, variant) and not r["excluded_because"]]
    shared = set.intersection(*({k for k, v in row.items() if _is_score(k, v)} for row in both))
    found: dict[str, Any] = {}
    for column in sorted(shared):
        comparison = _compare(points_of(both, loss=column), baseline, variant, shift)
        if isinstance(comparison, Comparison):
            found[column.removeprefix("bpb[").removesuffix("]")] = asdict(comparison.pooled)
    adjusted = _holm({name: pooled["p_value"] for name, pooled in found.items()})
    return {name: pooled | {"p_holm": adjusted[name]} for name, pooled in found.items()}


def _by_length(
    points: Points, baseline: str, variant: str, shift: NDArray[np.float64] | None
) -> dict[str, Any]:
    """Give the pooled multiplier of the runs of every length alone; {} where there is but one.

    The lengths share their trunks' noise, so how these differ is known better than their intervals
    say.
    """
    lengths = np.unique(points.branch).tolist()
    found: dict[str, Any] = {}
    for length in lengths if len(lengths) > 1 else []:
        own = points.where(points.branch == length)
        alone = _compare(own, baseline, variant, shift)
        name = f"{length:g}"
        found[name] = {"problem": alone} if isinstance(alone, str) else asdict(alone.pooled)
    return found


def _holm(p_values: dict[str, float]) -> dict[str, float | None]:
    """Adjust p-values by name; a test that could not be made takes no part."""
    known = [None if math.isnan(p) else p for p in p_values.values()]
    return dict(zip(p_values, holm(known), strict=True))


def _is_score(column: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and math.isfinite(value) and value > 0
    return column.startswith("bpb[") and is_number
