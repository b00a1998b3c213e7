"""What a report says of one study.

Owns the reading of a study folder: its table again from its runs, its fits again from that table.
"""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ladderlm.files import read_json
from ladderlm.study.analysis import analyse
from ladderlm.study.asides import best_sizes, seed_noise
from ladderlm.study.results import Row, read_results, reread_results
from ladderlm.study.spec import read_stored_study
from ladderlm.study.tuning import Tuning, fit_bracket, fit_rate_law

__all__ = ["search_again", "study_facts", "tuning_again", "without_home"]

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
    tunings = [tuning_again(tuning, rows) for tuning in known.get("tuning", [])]
    baseline, budgets = spec.arms[0].name, spec.ladder.flops
    for row in rows:
        row["excluded_because"] = without_home(row["excluded_because"])
    fits = analyse(spec, rows, tunings, pool)
    fits |= {
        "tuning": [tuning.to_json(budgets) for tuning in tunings],
        "noise": seed_noise(rows, baseline),
        "isoflop": best_sizes(rows, baseline, budgets),
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


def tuning_again(stored: Facts, rows: list[Row]) -> Tuning:
    """Give what is known of an arm's rates, by the losses that its brackets' runs have now."""
    tuning = Tuning.from_json(stored)
    losses = {
        (row["rung"], row["learning_rate"]): row["bits_per_byte"] if _is_scored(row) else math.inf
        for row in rows
        if row["role"] == "bracket" and row["arm"] == tuning.arm
    }
    brackets = []
    for bracket in tuning.brackets:
        tried = zip(bracket.rates, bracket.losses, strict=True)
        found = [losses.get((bracket.rung, rate), loss) for rate, loss in tried]
        brackets.append(fit_bracket(bracket.rung, bracket.flops, bracket.rates, found))
    law = None if tuning.law is None else fit_rate_law(brackets)
    return replace(tuning, brackets=tuple(brackets), law=law)


def _is_scored(row: Row) -> bool:
    return isinstance(row["bits_per_byte"], int | float)


def search_again(found: Facts | None, rows: list[Row]) -> Facts | None:
    """Give what a search found, with the losses that its runs have now."""
    if found is None or not found["rows"]:
        return None
    losses = {row["run_id"]: row["bits_per_byte"] for row in rows if _is_scored(row)}

    def again(row: Facts) -> Facts:
        return row | {"bits_per_byte": losses.get(row["run_id"])}

    best = found["best"]
    tried = [again(row) for row in found["rows"]]
    return found | {"rows": tried, "best": None if best is None else again(best)}
