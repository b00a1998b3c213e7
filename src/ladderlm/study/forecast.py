"""The forecast of the held-out rungs: written once, from the lower rungs alone, then scored.

Owns `forecast.json`.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import publish_json, read_json
from ladderlm.scaling.forecast import forecast
from ladderlm.scaling.joint import fit_law
from ladderlm.study.results import Row, points_of
from ladderlm.study.spec import StudySpec

__all__ = ["score_forecast", "write_forecast"]


def write_forecast(folder: Path, spec: StudySpec, rows: list[Row]) -> dict[str, Any] | None:
    """Predict the held-out rungs from the others, once; later calls give what was written.

    Only runs of the ladder below its held-out rungs are read; `made_from` is the hash of their
    losses, `hash` that of law and predictions, and `timing` says when it was written. It is made
    again only when a lower rung has changed.
    """
    path = folder / "forecast.json"
    if spec.ladder.holdout == 0:
        return None
    rows = [row for row in rows if row["role"] == "ladder"]
    first_held = len(spec.ladder.flops) - spec.ladder.holdout
    lower = [row for row in rows if int(row["rung"]) < first_held]
    digest = content_hash([[r["run_id"], r["bits_per_byte"]] for r in lower])
    if path.exists():
        written: dict[str, Any] = read_json(path)
        if written.get("made_from") == digest:
            return written
    try:
        law = fit_law(points_of(lower), spec.arms[0].name)
    except DataError:
        return None
    held: dict[tuple[str, int, float], list[float]] = {}
    for row in rows:
        known = row["arm"] in law.arms and row["branch"] in law.branches
        if int(row["rung"]) >= first_held and known:
            place = (str(row["arm"]), int(row["rung"]), float(row["branch"]))
            held.setdefault(place, []).append(float(row["flops"]))
    predictions = []
    for (arm, rung, branch), flops in sorted(held.items()):
        found = forecast(law, arm, float(np.exp(np.log(flops).mean())), len(flops), branch)
        predictions.append(
            {
                "arm": arm,
                "rung": rung,
                "branch": branch,
                "flops": found.x,
                "n_runs": found.n_runs,
                "bits_per_byte": found.value,
                "interval_90": [found.low_90, found.high_90],
                "interval_95": [found.low_95, found.high_95],
            }
        )
    said = {"made_from": digest, "law": law.to_json(), "predictions": predictions}
    said |= {"hash": content_hash([asdict(law), predictions])}
    said |= {"timing": {"written_at": datetime.now(UTC).isoformat(timespec="seconds")}}
    publish_json(path, said)
    return said


def score_forecast(written: dict[str, Any] | None, rows: list[Row]) -> list[dict[str, Any]]:
    """Hold a forecast against the held-out runs that count, one entry per arm, rung and length.

    Error is predicted / actual - 1.
    """
    scores = []
    for said in written["predictions"] if written else []:
        actual = [
            float(row["bits_per_byte"])
            for row in rows
            if (row["arm"], int(row["rung"])) == (said["arm"], said["rung"])
            and row["branch"] == said.get("branch", 1.0)
            and not row["excluded_because"]
        ]
        if not actual:
            continue
        mean = float(np.exp(np.log(actual).mean()))
        scores.append(
            {
                **{k: said[k] for k in ("arm", "rung", "flops", "bits_per_byte")},
                "branch": said.get("branch", 1.0),
                **{k: said[k] for k in ("interval_90", "interval_95")},
                "n_runs": len(actual),
                "actual": mean,
                "relative_error": said["bits_per_byte"] / mean - 1,
                "inside_90": said["interval_90"][0] <= mean <= said["interval_90"][1],
                "inside_95": said["interval_95"][0] <= mean <= said["interval_95"][1],
            }
        )
    return scores
