"""From the table of a study to its fits, forecast and verdicts.

Owns `fits.json` and `forecast.json`. The forecast is written from the lower rungs alone, before
the held-out ones are looked at.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import publish_json, read_json
from ladderlm.scaling.compare import compare_arms
from ladderlm.scaling.joint import Points, fit_card, fit_law, holdout_errors
from ladderlm.study.results import Row, points_of
from ladderlm.study.spec import StudySpec
from ladderlm.study.verdict import decide

__all__ = ["analyse", "write_forecast"]


def write_forecast(folder: Path, spec: StudySpec, rows: list[Row]) -> dict[str, Any] | None:
    """Predict the held-out rungs from the others, once; later calls give what was written.

    Only rows below the held-out rungs are read. Their hash stands beside the forecast.
    """
    path = folder / "forecast.json"
    first_held = len(spec.ladder.flops) - spec.ladder.holdout
    lower = [row for row in rows if int(row["rung"]) < first_held]
    if spec.ladder.holdout == 0:
        return None
    digest = content_hash([[r["run_id"], r["bits_per_byte"]] for r in lower])
    if path.exists():
        written: dict[str, Any] = read_json(path)
        if written.get("made_from") == digest:
            return written
    try:
        law = fit_law(points_of(lower))
    except DataError:
        return None
    held = {
        (r["arm"], int(r["rung"]), float(r["flops"])) for r in rows if int(r["rung"]) >= first_held
    }
    predictions = []
    for arm, rung, flops in sorted(row for row in held if row[0] in law.arms):
        x = np.array([flops])
        error = float(np.hypot(law.standard_error(arm, x)[0], law.sigma))
        value = float(law.predict(arm, x)[0])
        interval = [value * float(np.exp(-2 * error)), value * float(np.exp(2 * error))]
        predictions.append(
            {
                "arm": arm,
                "rung": rung,
                "flops": flops,
                "bits_per_byte": value,
                "interval_95": interval,
            }
        )
    forecast = {"made_from": digest, "law": law.to_json(), "predictions": predictions}
    publish_json(path, forecast)
    return forecast


def analyse(spec: StudySpec, rows: list[Row]) -> dict[str, Any]:
    """Fit, compare and judge.

    Returns:
        For `fits.json`: the law per axis, a comparison and a verdict per variant, hold-out errors,
        the fit card, and why anything is missing.
    """
    excluded = {row["run_id"]: row["excluded_because"] for row in rows if row["excluded_because"]}
    points = points_of(rows)
    result: dict[str, Any] = {"study": spec.name, "loss": "bits_per_byte", "excluded": excluded}
    try:
        law = fit_law(points)
    except DataError as error:
        return result | {"problem": str(error), "variants": []}
    holdout = _holdout(points, spec.ladder.holdout)
    result |= {
        "law": law.to_json(),
        "card": fit_card(law, points, excluded),
        "holdout": holdout,
        "variants": [_judge(spec, arm.name, rows, points, holdout) for arm in spec.arms[1:]],
    }
    return result


def _holdout(points: Points, n_rungs: int) -> list[dict[str, Any]] | None:
    if n_rungs == 0:
        return None
    try:
        return holdout_errors(points, n_rungs)
    except DataError:
        return None


def _judge(
    spec: StudySpec,
    variant: str,
    rows: list[Row],
    points: Points,
    holdout: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    baseline = spec.arms[0].name
    try:
        comparison = compare_arms(points, baseline, variant)
    except DataError as error:
        return {"variant": variant, "problem": str(error)}
    passed = None
    if holdout is not None:
        passed = all(row["passed"] for row in holdout if row["arm"] in (baseline, variant))
    verdict = decide(
        comparison,
        tuned=all(arm.tune for arm in spec.arms if arm.name in (baseline, variant)),
        holdout_passed=passed,
        demonstration=spec.demonstration,
    )
    judged = {"variant": variant, "comparison": comparison.to_json()}
    judged["verdict"] = asdict(verdict) | {"text": verdict.text}
    for axis in ("device_seconds", "tokens"):
        try:
            other = compare_arms(points_of(rows, x=axis), baseline, variant)
            judged[f"at_equal_{axis}"] = other.to_json()
        except (DataError, ValueError) as error:
            judged[f"at_equal_{axis}"] = {"problem": str(error)}
    return judged
