"""The state of a study, from its run folders alone.

Owns the status of every planned run, the remaining time and the losses so far. Starts nothing.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ladderlm.executors.base import Resources
from ladderlm.executors.job_packing import Packing
from ladderlm.run.directory import RunDirectory
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planner import PlannedRun
from ladderlm.study.schedule import wall_seconds

__all__ = ["EarlyLoss", "RunStatus", "StudyStatus", "early_losses", "study_status"]

SILENT_AFTER_SECONDS = 60.0  # at least; a slow run may log more rarely


@dataclass(frozen=True)
class RunStatus:
    """The state of one run.

    Args:
        status: not chosen (its learning rate), not started, running, silent, stopped, failed or
            finished. A silent run was not stopped, but has written nothing for long: it was killed,
            or hangs.
        step: updates logged.
        bits_per_byte: of the whole validation once finished, else of its head; None before.
        total_seconds: from start to end, if known.
        remaining_seconds: None while no run of this kind has been timed.
        reason: why it stopped or failed.
    """

    run: PlannedRun
    status: str
    step: int = 0
    bits_per_byte: float | None = None
    total_seconds: float | None = None
    remaining_seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class StudyStatus:
    """All runs, each once, and the seconds until the last one ends, if known."""

    runs: tuple[RunStatus, ...]
    remaining_seconds: float | None

    @property
    def n_finished(self) -> int:
        """Number of finished runs."""
        return sum(row.status == "finished" for row in self.runs)

    @property
    def over(self) -> bool:
        """Whether every run has finished or failed."""
        return all(row.status in ("finished", "failed") for row in self.runs)


def study_status(plan: StudyPlan, pool: Path, at_once: int = 1) -> StudyStatus:
    """Read the state of every run.

    A run's remaining time follows from its own speed if it has one, else from that of a run of the
    nearest rung, of its own arm if possible, in proportion to FLOPs. The study's is that of its
    runs in the order of their starts.

    Args:
        at_once: number of concurrent runs, as far as known; at least those that run now.
    """
    # A run of the ladder may be one of a search too, and one that is not chosen yet may exist.
    order = sorted(plan.runs, key=lambda run: (not run.provisional, run.role == "ladder"))
    latest = {run.run_id: run for run in order}
    rows = [_look(latest[name], pool) for name in dict.fromkeys(run.run_id for run in plan.runs)]
    known = [row for row in rows if row.total_seconds is not None and row.status != "failed"]
    rows = [replace(row, remaining_seconds=_remaining(row, known)) for row in rows]
    if any(row.remaining_seconds is None for row in rows):
        return StudyStatus(tuple(rows), None)
    states = {row.run.run_id: row for row in rows}
    running = [name for name, row in states.items() if row.status == "running"]

    def seconds_of(run: PlannedRun) -> float:
        row = RunStatus(run, "not chosen") if run.provisional else states[run.run_id]
        return _remaining(row, known) or 0.0

    room = Packing(max(len(running), at_once), math.inf, 0)  # a run takes one place
    total = wall_seconds(plan.runs, seconds_of, room, lambda run: Resources(), running)
    return StudyStatus(tuple(rows), total)


def _look(run: PlannedRun, pool: Path) -> RunStatus:
    directory = RunDirectory(pool / run.run_id)
    summary = directory.summary()
    if run.provisional or summary is None:
        return RunStatus(run, "not chosen" if run.provisional else "not started")
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
    """Return the seconds since a run last wrote its metrics, log or summary."""
    files = (directory.metrics_file, directory.log_file, directory.summary_file)
    return time.time() - max(file.stat().st_mtime for file in files if file.exists())


def _remaining(row: RunStatus, known: Sequence[RunStatus]) -> float | None:
    if row.status in ("finished", "failed"):
        return 0.0
    total = row.total_seconds
    if total is None:
        if not known:
            return None
        own = row.run

        def distance(other: RunStatus) -> tuple[int, bool]:
            return abs(own.rung.index - other.run.rung.index), own.arm != other.run.arm

        near = min(known, key=distance)
        total = (near.total_seconds or 0.0) * own.rung.flops / near.run.rung.flops
    step = max(row.step, row.run.shared_steps)
    return total * (1 - step / row.run.rung.n_steps)


@dataclass(frozen=True)
class EarlyLoss:
    """The mean loss of the finished runs of an arm on a rung. Verdicts need `study fit`.

    Args:
        rung: from 1.
        bits_per_byte: None while no run has finished.
    """

    rung: int
    branch: float
    arm: str
    n_finished: int
    n_runs: int
    bits_per_byte: float | None


def early_losses(status: StudyStatus) -> list[EarlyLoss]:
    """Return the mean losses so far by rung, branch and arm of the ladder."""
    groups: dict[tuple[int, float, str], list[RunStatus]] = {}
    for row in status.runs:
        if row.run.role == "ladder":
            place = (row.run.rung.index + 1, row.run.rung.branch, row.run.arm)
            groups.setdefault(place, []).append(row)
    table = []
    for place, rows in groups.items():
        losses = [row.bits_per_byte for row in rows if row.status == "finished"]
        known = [loss for loss in losses if isinstance(loss, int | float)]
        mean = statistics.fmean(known) if known else None
        table.append(EarlyLoss(*place, len(losses), len(rows), mean))
    return table
