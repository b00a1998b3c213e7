"""Versions and machines of a study's runs, and other runs at the same time.

Owns the comparison of the runs' environments and of their times.
"""

from collections import Counter
from datetime import datetime
from pathlib import Path

from ladderlm.run.directory import RunDirectory
from ladderlm.study.plan import StudyPlan
from ladderlm.study.results import Results, Row

__all__ = ["incomparable_times", "mixed_origins"]

SHARED = 0.5  # of a run's time; above it, the median step shared the machine with other runs


def mixed_origins(plan: StudyPlan, pool: Path) -> list[str]:
    """Return warnings about finished runs of a ladder with different versions or hardware.

    Returns:
        A line for each of ladderlm's version and commit, PyTorch's version and the hardware that is
        not the same in all runs, with the number of runs of each value.
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


def incomparable_times(results: Results, pool: Path) -> dict[str, str]:
    """Return the runs of the ladder whose times cannot be compared, with the reason, by run id.

    Device-hours are those of a run that has its machine to itself. A run on a CPU shared it if
    other runs of the study were under way, on hardware of that name, for more than half of its
    time. A run on a GPU never shares it. Runs of older versions have no start time and count as
    alone.
    """
    done = {row.run_id: row for row in results if row.status == "finished"}
    usual = Counter(row.hardware for row in done.values()).most_common(1)
    spans = {run_id: _span(row, RunDirectory(pool / run_id)) for run_id, row in done.items()}
    found = {}
    for run_id, row in done.items():
        if row.role != "ladder":
            continue
        if row.hardware != usual[0][0]:
            found[run_id] = f"ran on {row.hardware}, most runs on {usual[0][0]}"
            continue
        begin, end = spans[run_id]
        shared = sum(
            max(0.0, min(end, spans[other][1]) - max(begin, spans[other][0]))
            for other in done
            if other != run_id and done[other].hardware == row.hardware
        )
        if end > begin and shared > SHARED * (end - begin):
            found[run_id] = "shared the machine with other runs of the study"
    return found


def _span(row: Row, directory: RunDirectory) -> tuple[float, float]:
    """Return start and end of a run on a CPU, in seconds; an empty span if they are not known."""
    made = directory.environment()
    started = made.get("timing", {}).get("started_at")
    if started is None or made.get("device") != "cpu":
        return 0.0, 0.0
    begin = datetime.fromisoformat(started).timestamp()
    own = row.flops_spent / row.flops  # without the trunk's steps
    return begin, begin + own * (row.seconds or 0.0)
