"""What a report says of one study.

Owns the reading of a study's folder for a report. Table and fits are found again by the study.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladderlm.files import read_json
from ladderlm.study.fits import Fits
from ladderlm.study.forecast import FORECAST_FILE
from ladderlm.study.results import Results, Row
from ladderlm.study.study import Study, StudyDescription

__all__ = ["StudyFacts"]


@dataclass(frozen=True)
class StudyFacts:
    """One study of a report.

    Args:
        about: its question, arms and ladder, and what to be warned of.
        folder: of the study, from the report's folder.
        results, fits: found again from the runs.
        forecast: what `forecast.json` holds, word for word.
    """

    about: StudyDescription
    folder: str
    results: Results
    fits: Fits
    forecast: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path, home: Path) -> "StudyFacts":
        """Read a study and fit it again.

        Args:
            home: folder of the report.
        """
        study = Study.open(folder)
        results, fits = study.reread()
        path = folder / FORECAST_FILE
        forecast = read_json(path) if path.is_file() else None
        return cls(study.description(), os.path.relpath(folder, home), results, fits, forecast)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the forecast next to the fits."""
        fits = self.fits.to_json()
        for name in ("forecast", "forecast_score"):
            fits.pop(name)
        return {
            **self.about.to_json(),
            "folder": self.folder,
            "rows": [row.to_json() for row in self.results],
            "fits": {"search": None} | fits,
            "forecast": self.forecast,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StudyFacts":
        """Read back what `to_json` returned; its fits have no axes."""
        return cls(
            about=StudyDescription.from_json(values),
            folder=values["folder"],
            results=Results(tuple(map(Row.from_json, values["rows"]))),
            fits=Fits.from_json(values["fits"]),
            forecast=values["forecast"],
        )
