"""What stands beside the comparison: the spread of seeds, the best size, where runs came from.

Owns the reading of such rows of the table and of the runs' environments; the fits are those of
`scaling/`.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from scipy.stats import chi2

from ladderlm.errors import DataError
from ladderlm.run.directory import RunDirectory
from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.fit import fit_points
from ladderlm.study.plan import StudyPlan
from ladderlm.study.results import Row

__all__ = ["best_sizes", "incomparable_times", "mixed_origins", "seed_noise"]

SHARED = 0.5  # of a run's time: beyond it the median step is one beside other runs


def seed_noise(rows: list[Row], baseline: str) -> dict[str, Any] | None:
    """Give the spread of seeds alone: of the smallest baseline's runs, in ln bits per byte.

    Returns:
        {"n_seeds", "sd", "interval_95"}, by the chi-square law of a normal sample's variance; None
        with fewer than three runs.
    """
    losses = {
        row["run_id"]: math.log(row["bits_per_byte"])
        for row in rows
        if row["arm"] == baseline
        and row["rung"] == 0
        and row["role"] in ("ladder", "noise")
        and _is_scored(row)
    }
    n = len(losses)
    if n < 3:
        return None
    sd = statistics.stdev(losses.values())
    low, high = (sd * math.sqrt((n - 1) / chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    return {"n_seeds": n, "sd": sd, "interval_95": [float(low), float(high)]}


def _is_scored(row: Row) -> bool:
    bits = row["bits_per_byte"]
    return isinstance(bits, int | float) and 0 < bits < math.inf


def best_sizes(rows: list[Row], baseline: str, budgets: Sequence[float]) -> dict[str, Any] | None:
    """Fit the bowls of the baseline's sizes at equal compute.

    Returns:
        What `ladderlm fit --form isoflop` gives, with `tokens_per_param_opt` in every bowl that
        has an optimum; {"problem"} if there is no fit; None if no such runs were planned.
    """
    sized = {(row["rung"], row["seed"]) for row in rows if row["role"] == "isoflop"}
    own = [
        row
        for row in rows
        if row["arm"] == baseline
        and (row["rung"], row["seed"]) in sized
        and row["role"] in ("ladder", "isoflop")
        and _is_scored(row)
    ]
    if not sized:
        return None
    columns: dict[str, list[object]] = {
        "params": [row["params"] for row in own],
        "tokens": [row["tokens"] for row in own],
        "flops": [budgets[row["rung"]] for row in own],  # each is met to one step
        "loss": [row["bits_per_byte"] for row in own],
    }
    try:
        found = fit_points(columns, FitOptions(form="isoflop")).to_json()
    except DataError as error:
        return {"problem": str(error)}
    for bowl in found["bowls"]:
        if not bowl["problem"]:
            bowl["tokens_per_param_opt"] = bowl["tokens_opt"] / bowl["params_opt"]
    return found


def mixed_origins(plan: StudyPlan, pool: Path) -> list[str]:
    """Warn where the finished runs of a ladder were not all made alike.

    Returns:
        A line for each of ladderlm's version and commit, PyTorch's version and the hardware that is
        not the same in all runs, with the number of runs of each.
    """
    kinds: dict[str, Counter[str]] = {}
    for run in {run.run_id: run for run in plan.ladder}.values():
        directory = RunDirectory(pool / run.run_id)
        if run.provisional or not directory.finished:
            continue
        made = directory.environment()
        of = {
            "versions of ladderlm": made.get("ladderlm"),
            "commits of ladderlm": made.get("commit"),
            "versions of PyTorch": made.get("versions", {}).get("torch"),
            "hardware": made.get("hardware"),
        }
        for name, value in of.items():
            kinds.setdefault(name, Counter())[str(value or "unknown")] += 1
    return [
        f"the runs were made with different {name}: "
        + ", ".join(f"{value} ({n} runs)" for value, n in sorted(counts.items()))
        for name, counts in kinds.items()
        if len(counts) > 1
    ]


def incomparable_times(rows: list[Row], pool: Path) -> dict[str, str]:
    """Say which runs of the ladder have times that compare with no other's.

    Device-hours are meant of a run that has its machine to itself. A run on the CPU shared it if
    other runs of the study were under way, on hardware of that name, for more than half of its
    time; a run on a GPU has a whole one. Runs of older versions do not say when they began, and
    count as alone.

    Returns:
        Why, by run id.
    """
    done = {row["run_id"]: row for row in rows if row["status"] == "finished"}
    usual = Counter(row["hardware"] for row in done.values()).most_common(1)
    spans = {run_id: _span(row, RunDirectory(pool / run_id)) for run_id, row in done.items()}
    found = {}
    for run_id, row in done.items():
        if row["role"] != "ladder":
            continue
        if row["hardware"] != usual[0][0]:
            found[run_id] = f"ran on {row['hardware']}, most runs on {usual[0][0]}"
            continue
        begin, end = spans[run_id]
        beside = sum(
            max(0.0, min(end, spans[other][1]) - max(begin, spans[other][0]))
            for other in done
            if other != run_id and done[other]["hardware"] == row["hardware"]
        )
        if end > begin and beside > SHARED * (end - begin):
            found[run_id] = "shared the machine with other runs of the study"
    return found


def _span(row: Row, directory: RunDirectory) -> tuple[float, float]:
    """Give begin and end of a run on the CPU, in seconds; an empty span where it is not known."""
    made = directory.environment()
    started = made.get("timing", {}).get("started_at")
    if started is None or made.get("device") != "cpu":
        return 0.0, 0.0
    begin = datetime.fromisoformat(started).timestamp()
    own = float(row["flops_spent"]) / float(row["flops"])  # a branch has the rest from its trunk
    return begin, begin + own * float(row["seconds"])
