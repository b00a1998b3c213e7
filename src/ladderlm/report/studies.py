"""The facts of one study for a report.

Owns how a study's folder is read for a report. The study computes its table and fits again.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladderlm.files import read_json
from ladderlm.study.fits import Fits
from ladderlm.study.forecast import FORECAST_FILE
from ladderlm.study.records import parse_record, plain
from ladderlm.study.results import Results, Row
from ladderlm.study.study import Study, StudyDescription

__all__ = ["StudyFacts"]


@dataclass(frozen=True)
class StudyFacts:
    """One study of a report.

    Args:
        folder: of the study, relative to the report's folder.
        results, fits: computed again from the runs.
        forecast: content of `forecast.json`, unchanged.
    """

    about: StudyDescription
    folder: str
    results: Results
    fits: Fits
    forecast: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path, home: Path) -> "StudyFacts":
        """Read a study and fit it again, for a report in the folder `home`."""
        study = Study.open(folder)
        results, fits = study.reread()
        path = folder / FORECAST_FILE
        forecast = read_json(path) if path.is_file() else None
        return cls(study.description(), os.path.relpath(folder, home), results, fits, forecast)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the forecast next to the fits."""
        fits = {"search": None} | self.fits.to_json()
        left_out = ("forecast", "forecast_score")
        return {
            **plain(self.about),
            "folder": self.folder,
            "rows": self.results.table_rows(),
            "fits": {name: value for name, value in fits.items() if name not in left_out},
            "forecast": self.forecast,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StudyFacts":
        """Read back what `to_json` returned; its fits have no axes."""
        return cls(
            about=parse_record(StudyDescription, values),
            folder=values["folder"],
            results=Results(tuple(map(Row.from_json, values["rows"]))),
            fits=Fits.from_json(values["fits"]),
            forecast=values["forecast"],
        )
