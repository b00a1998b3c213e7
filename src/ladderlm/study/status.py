"""Where a study stands, from its run folders alone.

Owns the state of every planned run, the time still to go, and the losses so far. Starts nothing.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ladderlm.executors.base import Resources
from ladderlm.executors.packing import Packing
from ladderlm.run.directory import RunDirectory
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planner import PlannedRun
from ladderlm.study.schedule import wall_seconds

__all__ = ["RunStatus", "StudyStatus", "early_losses", "study_status"]

SILENT_AFTER_SECONDS = 60.0  # at least; a slow run may log more rarely


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Args:
        status: not chosen (its learning rate), not started, running, silent, stopped, failed or
            finished. A run is silent when it
            says that it is running and has written nothing for long: it was killed, or hangs.
        step: updates logged.
        bits_per_byte: of the whole validation once finished, else of its head; None before.
        total_seconds: of the run from begin to end, as far as it is known.
        remaining_seconds: None while nothing is known of how fast such runs are.
        reason: why it stopped or failed.
    """

    run: PlannedRun
    status: str
    step: int
    bits_per_byte: float | None
    total_seconds: float | None
    remaining_seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class StudyStatus:
    """All runs, each once, and the seconds until the last one ends (None: not known)."""

    runs: tuple[RunStatus, ...]
    remaining_seconds: float | None

    @property
    def n_finished(self) -> int:
        """Runs that are done."""
        return sum(row.status == "finished" for row in self.runs)

    @property
    def over(self) -> bool:
        """True when no run is left that could still finish."""
        return all(row.status in ("finished", "failed") for row in self.runs)


def study_status(plan: StudyPlan, pool: Path, at_once: int = 1) -> StudyStatus:
    """Look at every run.

    Args:
        at_once: runs side by side as far as the caller knows; those that run now count if more.

    The time to go of a run is its own speed's if it has one, else that of a known run of the
    nearest rung, of its own arm if there is one, in proportion to FLOPs. The study's is that of
    its runs in the order in which they start, as many side by side.
    """
    # A run of the ladder may be one of a search too, and one that is not chosen yet may exist.
    order = sorted(plan.runs, key=lambda run: (not run.provisional, run.role == "ladder"))
    latest = {run.run_id: run for run in order}
    planned = {run.run_id: latest[run.run_id] for run in plan.runs}
    rows = [_look(run, RunDirectory(pool / run.run_id)) for run in planned.values()]
    known = [row for row in rows if row.total_seconds is not None and row.status != "failed"]
    rows = [replace(row, remaining_seconds=_remaining(row, known)) for row in rows]
    if any(row.remaining_seconds is None for row in rows):
        return StudyStatus(tuple(rows), None)
    states = {row.run.run_id: row for row in rows}
    running = [name for name, row in states.items() if row.status == "running"]

    def seconds_of(run: PlannedRun) -> float:
        row = RunStatus(run, "not chosen", 0, None, None) if run.provisional else states[run.run_id]
        return _remaining(row, known) or 0.0

    room = Packing(max(len(running), at_once), math.inf, 0)  # a run takes a place
    total = wall_seconds(plan.runs, seconds_of, room, lambda run: Resources(), running)
    return StudyStatus(tuple(rows), total)


def _look(run: PlannedRun, directory: RunDirectory) -> RunStatus:
    summary = directory.summary()
    if run.provisional:
        return RunStatus(run, "not chosen", 0, None, None)
    if summary is None:
        return RunStatus(run, "not started", 0, None, None)
    status = str(summary["status"])
    if status == "finished":
        loss = (directory.scores(run.config.eval.split) or {}).get("bits_per_byte")
        seconds = float(summary["timing"]["seconds"])
        return RunStatus(run, status, int(summary["n_steps"]), loss, seconds)
    trained, scored = directory.metrics("train"), directory.metrics("eval")
    step_seconds = [row["timing"]["step_seconds"] for row in trained]
    median = statistics.median(step_seconds) if step_seconds else None
    if status == "running" and _age(directory) > max(SILENT_AFTER_SECONDS, 50 * (median or 0.0)):
        status = "silent"
    total = None if median is None else median * run.rung.n_steps
    step = int(trained[-1]["step"]) if trained else 0
    loss = scored[-1]["bits_per_byte"] if scored else None
    return RunStatus(run, status, step, loss, total, reason=str(summary.get("reason", "")))


def _age(directory: RunDirectory) -> float:
    """Return the seconds since a run wrote its metrics, log or summary."""
    files = (directory.metrics_file, directory.log_file, directory.summary_file)
    return time.time() - max(file.stat().st_mtime for file in files if file.exists())


def _remaining(row: RunStatus, known: Sequence[RunStatus]) -> float | None:
    if row.status in ("finished", "failed"):
        return 0.0
    total = row.total_seconds
    if total is None:
        if not known:
            return None
        near = min(known, key=lambda other: _distance(row.run, other.run))
        total = (near.total_seconds or 0.0) * row.run.rung.flops / near.run.rung.flops
    step = max(row.step, row.run.shared_steps)
    return total * (1 - step / row.run.rung.n_steps)


def _distance(one: PlannedRun, other: PlannedRun) -> tuple[int, bool]:
    return abs(one.rung.index - other.rung.index), one.arm != other.arm


def early_losses(status: StudyStatus) -> list[dict[str, Any]]:
    """Return the mean bits per byte of the finished runs of the ladder's rungs, branches and arms.

    Returns:
        Rows of {"rung", "branch", "arm", "n_finished", "n_runs", "bits_per_byte"}, the last None
        where nothing is finished. A look at them is no verdict: `study fit` weighs them.
    """
    groups: dict[tuple[int, float, str], list[RunStatus]] = {}
    for row in status.runs:
        if row.run.role != "ladder":
            continue
        rung = row.run.rung
        groups.setdefault((rung.index, rung.branch, row.run.arm), []).append(row)
    table = []
    for (index, branch, arm), rows in groups.items():
        losses = [row.bits_per_byte for row in rows if row.status == "finished"]
        found = [loss for loss in losses if isinstance(loss, int | float)]
        table.append(
            {"rung": index + 1, "branch": branch, "arm": arm}
            | {"n_finished": len(losses), "n_runs": len(rows)}
            | {"bits_per_byte": statistics.fmean(found) if found else None}
        )
    return table
