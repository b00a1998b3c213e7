"""What a report says of one study.

Owns the reading of a study folder: its table again from its runs, its fits again from that table.
"""

import os
from pathlib import Path
from typing import Any

from ladderlm.files import read_json
from ladderlm.study.analysis import analyse
from ladderlm.study.results import Row, read_results, reread_results
from ladderlm.study.spec import read_stored_study
from ladderlm.study.tuning import Tuning

__all__ = ["study_facts", "study_rows", "without_home"]

Facts = dict[str, Any]


def without_home(text: Any) -> Any:
    """Drop the user's home from an error's words."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path's raises for a user without a home
    return text.replace(home, "~") if isinstance(text, str) and len(home) > 1 else text


def study_rows(folder: Path) -> list[Row]:
    """Read a study's table again from its runs."""
    pool = folder / str(read_json(folder / "study.json")["pool"])
    return reread_results(read_results(folder / "results.csv"), pool)


def study_facts(folder: Path, home: Path) -> Facts:
    """Read a study and fit it again."""
    described = read_json(folder / "study.json")
    spec, rows = read_stored_study(folder), study_rows(folder)
    forecast, stored = folder / "forecast.json", folder / "fits.json"
    tuned = read_json(stored).get("tuning", []) if stored.is_file() else []
    for row in rows:
        row["excluded_because"] = without_home(row["excluded_because"])
    fits = analyse(spec, rows, [Tuning.from_json(tuning) for tuning in tuned])
    return {
        **described,
        "name": spec.name,  # checked: figures are files of that name
        "folder": os.path.relpath(folder, home),
        "rows": rows,
        "fits": fits | {"tuning": tuned},
        "forecast": read_json(forecast) if forecast.is_file() else None,
    }
