"""What a report says of one study.

Owns the reading of a study folder: its table again from its runs, its fits again from that table.
"""

import os
from pathlib import Path
from typing import Any

from ladderlm.files import read_json
from ladderlm.study.analysis import analyse
from ladderlm.study.asides import best_sizes, seed_noise
from ladderlm.study.results import Row, read_results, reread_results
from ladderlm.study.spec import read_stored_study
from ladderlm.study.tuning import Tuning

__all__ = ["search_again", "study_facts", "without_home"]

Facts = dict[str, Any]


def without_home(text: Any) -> Any:
    """Drop the user's home from an error's words."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path's raises for a user without a home
    return text.replace(home, "~") if isinstance(text, str) and len(home) > 1 else text


def study_facts(folder: Path, home: Path) -> Facts:
    """Read a study and fit it again."""
    described = read_json(folder / "study.json")
    spec, pool = read_stored_study(folder), folder / str(described["pool"])
    rows = reread_results(read_results(folder / "results.csv"), pool)
    forecast, stored = folder / "forecast.json", folder / "fits.json"
    known = read_json(stored) if stored.is_file() else {}
    tuned, baseline = known.get("tuning", []), spec.arms[0].name
    for row in rows:
        row["excluded_because"] = without_home(row["excluded_because"])
    fits = analyse(spec, rows, [Tuning.from_json(tuning) for tuning in tuned], pool)
    fits |= {
        "tuning": tuned,
        "noise": seed_noise(rows, baseline),
        "isoflop": best_sizes(rows, baseline, spec.ladder.flops),
        "search": search_again(known.get("search"), rows),
    }
    return {
        **described,
        "name": spec.name,  # checked: figures are files of that name
        "folder": os.path.relpath(folder, home),
        "rows": rows,
        "fits": fits,
        "forecast": read_json(forecast) if forecast.is_file() else None,
    }


def search_again(found: Facts | None, rows: list[Row]) -> Facts | None:
    """Give what a search found, with the losses that its runs have now."""
    if found is None or not found["rows"]:
        return None
    scored = [row for row in rows if isinstance(row["bits_per_byte"], int | float)]
    losses = {row["run_id"]: row["bits_per_byte"] for row in scored}

    def again(row: Facts) -> Facts:
        return row | {"bits_per_byte": losses.get(row["run_id"])}

    best = found["best"]
    tried = [again(row) for row in found["rows"]]
    return found | {"rows": tried, "best": None if best is None else again(best)}
