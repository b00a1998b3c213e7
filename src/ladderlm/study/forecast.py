"""The forecast of the held-out rungs: written once, from the lower rungs alone, then scored.

Owns `forecast.json`.
"""

from collections.abc import Mapping
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
from ladderlm.study.records import parse_record, plain
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


@dataclass(frozen=True)
class Prediction:
    """The mean loss of an arm's runs of a length on a held-out rung, before they were read."""

    arm: str
    rung: int
    branch: float
    flops: float
    n_runs: int
    bits_per_byte: float
    interval_90: tuple[float, ...]
    interval_95: tuple[float, ...]


@dataclass(frozen=True)
class ForecastScore:
    """A prediction and the mean that came; the error is predicted / actual - 1."""

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
    """What `forecast.json` holds.

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
        """Return plain values; all that differs from run to run stands under `timing`."""
        values: dict[str, Any] = {name: plain(value) for name, value in vars(self).items()}
        return values | {"timing": {"written_at": values.pop("written_at")}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StoredForecast":
        """Read back what `to_json` returned."""
        made = [{"branch": 1.0} | prediction for prediction in values["predictions"]]
        return cls(
            made_from=values["made_from"],
            law=LadderLaw.from_json(values["law"]),
            predictions=tuple(parse_record(Prediction, prediction) for prediction in made),
            hash=values.get("hash", ""),
            written_at=values["timing"]["written_at"],
        )

    def score(self, results: Results) -> tuple[ForecastScore, ...]:
        """Compare with the held-out runs that count, one entry per arm, rung and length."""
        scores = []
        for said in self.predictions:
            place = (said.arm, said.rung, said.branch)
            actual = [
                row.known_bits_per_byte
                for row in results.compared
                if (row.arm, row.rung, row.branch) == place
            ]
            if not actual:
                continue
            mean = float(np.exp(np.log(actual).mean()))
            kept = {k: v for k, v in vars(said).items() if k != "n_runs"}
            scores.append(
                ForecastScore(
                    **kept,
                    n_runs=len(actual),
                    actual=mean,
                    relative_error=said.bits_per_byte / mean - 1,
                    inside_90=said.interval_90[0] <= mean <= said.interval_90[1],
                    inside_95=said.interval_95[0] <= mean <= said.interval_95[1],
                )
            )
        return tuple(scores)


def read_forecast(folder: Path) -> StoredForecast | None:
    """Return the forecast that a study's folder holds, if it holds one."""
    path = folder / FORECAST_FILE
    return StoredForecast.from_json(read_json(path)) if path.is_file() else None


def write_forecast(folder: Path, spec: StudySpec, results: Results) -> StoredForecast | None:
    """Predict the held-out rungs from the others, once; later calls return what was written.

    Only runs of the ladder below its held-out rungs are read; `made_from` is the hash of their
    losses, `hash` that of law and predictions, and `timing` says when it was written. It is made
    again only when a lower rung has changed.
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
    predictions = []
    for (arm, rung, branch), flops in sorted(held.items()):
        found = forecast(law, arm, float(np.exp(np.log(flops).mean())), len(flops), branch)
        predictions.append(
            Prediction(
                arm=arm,
                rung=rung,
                branch=branch,
                flops=found.x,
                n_runs=found.n_runs,
                bits_per_byte=found.value,
                interval_90=(found.low_90, found.high_90),
                interval_95=(found.low_95, found.high_95),
            )
        )
    made = StoredForecast(
        made_from=digest,
        law=law,
        predictions=tuple(predictions),
        hash=content_hash([asdict(law), plain(predictions)]),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    publish_json(folder / FORECAST_FILE, plain(made))
    return made
