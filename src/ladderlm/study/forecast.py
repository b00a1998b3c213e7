"""The forecast of the held-out rungs, made from the lower rungs alone and scored later.

Owns `forecast.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import publish_json, read_json
from ladderlm.scaling.forecast import forecast
from ladderlm.scaling.joint import LadderLaw, fit_law
from ladderlm.study.records import fields_to_json, parse_record, plain
from ladderlm.study.results import Results
from ladderlm.study.spec import StudySpec

__all__ = [
    "FORECAST_FILE",
    "ForecastScore",
    "Prediction",
    "StoredForecast",
    "read_forecast",
    "write_forecast",
]

FORECAST_FILE = "forecast.json"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted mean loss of an arm's runs of one length on a held-out rung."""

    arm: str
    rung: int
    branch: float = 1.0
    flops: float
    n_runs: int
    bits_per_byte: float
    interval_90: tuple[float, ...]
    interval_95: tuple[float, ...]


@dataclass(frozen=True)
class ForecastScore:
    """A prediction and the measured mean; the error is predicted / actual - 1."""

    arm: str
    rung: int
    flops: float
    bits_per_byte: float
    branch: float
    interval_90: tuple[float, ...]
    interval_95: tuple[float, ...]
    n_runs: int
    actual: float
    relative_error: float
    inside_90: bool
    inside_95: bool


@dataclass(frozen=True)
class StoredForecast:
    """The content of `forecast.json`.

    Args:
        made_from: hash of the losses below the held-out rungs.
        hash: of law and predictions.
        written_at: time in UTC.
    """

    made_from: str
    law: LadderLaw
    predictions: tuple[Prediction, ...]
    hash: str
    written_at: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields, with the time under `timing`, which differs from run to run."""
        values: dict[str, Any] = fields_to_json(self)
        return values | {"timing": {"written_at": values.pop("written_at")}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StoredForecast":
        """Read back what `to_json` returned."""
        return parse_record(cls, {"hash": "", **values, **values["timing"]})

    def score(self, results: Results) -> tuple[ForecastScore, ...]:
        """Compare with the held-out runs that count, one entry per arm, rung and length."""
        scores = []
        for predicted in self.predictions:
            place = (predicted.arm, predicted.rung, predicted.branch)
            runs = [r for r in results.compared if (r.arm, r.rung, r.branch) == place]
            if not runs:
                continue
            mean = float(np.exp(np.log([row.known_bits_per_byte for row in runs]).mean()))
            low_90, high_90, low_95, high_95 = (*predicted.interval_90, *predicted.interval_95)
            measured = {
                "n_runs": len(runs),
                "actual": mean,
                "relative_error": predicted.bits_per_byte / mean - 1,
                "inside_90": low_90 <= mean <= high_90,
                "inside_95": low_95 <= mean <= high_95,
            }
            scores.append(ForecastScore(**vars(predicted) | measured))
        return tuple(scores)


def read_forecast(folder: Path) -> StoredForecast | None:
    """Return the forecast in a study's folder, or None if there is none."""
    path = folder / FORECAST_FILE
    return StoredForecast.from_json(read_json(path)) if path.is_file() else None


def write_forecast(folder: Path, spec: StudySpec, results: Results) -> StoredForecast | None:
    """Predict the held-out rungs from the runs below them, and write `forecast.json`.

    A forecast that was written before is returned as it is, unless a lower rung has changed.
    """
    if spec.ladder.holdout == 0:
        return None
    ladder = results.ladder
    first_held = len(spec.ladder.flops) - spec.ladder.holdout
    lower = ladder.where(lambda row: row.rung < first_held)
    digest = content_hash([[row.run_id, row.to_json()["bits_per_byte"]] for row in lower])
    written = read_forecast(folder)
    if written is not None and written.made_from == digest:
        return written
    try:
        law = fit_law(lower.points(), spec.arms[0].name)
    except DataError:
        return None
    held: dict[tuple[str, int, float], list[float]] = {}
    for row in ladder:
        if row.rung >= first_held and row.arm in law.arms and row.branch in law.branches:
            held.setdefault((row.arm, row.rung, row.branch), []).append(row.flops)
    predictions = tuple(_predict_mean(law, place, flops) for place, flops in sorted(held.items()))
    digest_of_all = content_hash([asdict(law), plain(predictions)])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = StoredForecast(digest, law, predictions, digest_of_all, now)
    publish_json(folder / FORECAST_FILE, made.to_json())
    return made


def _predict_mean(
    law: LadderLaw, place: tuple[str, int, float], flops: Sequence[float]
) -> Prediction:
    arm, rung, branch = place
    found = forecast(law, arm, float(np.exp(np.log(flops).mean())), len(flops), branch)
    return Prediction(
        arm=arm,
        rung=rung,
        branch=branch,
        flops=found.x,
        n_runs=found.n_runs,
        bits_per_byte=found.value,
        interval_90=(found.low_90, found.high_90),
        interval_95=(found.low_95, found.high_95),
    )
