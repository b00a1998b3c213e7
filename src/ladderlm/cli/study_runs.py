"""How `ladderlm study run` carries out a study, told as it goes."""

import sys
from collections.abc import Callable, Collection
from pathlib import Path

from ladderlm.cli.study_tables import live_table
from ladderlm.executors.base import Executor, Outcome, State
from ladderlm.executors.local import LocalExecutor
from ladderlm.files import FolderLock
from ladderlm.run.directory import RunDirectory
from ladderlm.study.ladder import name_rung
from ladderlm.study.launch import launch, release_trunks
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planned import PlannedRun
from ladderlm.study.status import StudyStatus, study_status
from ladderlm.units import format_seconds

__all__ = ["carry_out"]


def carry_out(
    make_plan: Callable[[Collection[str] | None], StudyPlan],
    folder: Path,
    pool: Path,
    executor: Executor | None = None,
) -> tuple[StudyPlan, list[Outcome]]:
    """Run what is not finished; give the last plan and the runs that failed.

    Args:
        make_plan: called anew when runs have ended: what a search has found decides on later runs.
            Its argument as in `plan_study`.
        executor: None: this machine.
    """
    with FolderLock(folder):
        outcomes = _run_all(make_plan, pool, executor or LocalExecutor())
        plan = make_plan(None)
        release_trunks(plan, pool)
    failed = [outcome for outcome in outcomes if outcome.state is State.FAILED]
    for outcome in failed:
        print(
            f"run {outcome.job.name} failed with exit code {outcome.exit_code} after "
            f"{outcome.n_tries} tries; see {outcome.job.log}",
            file=sys.stderr,
        )
    for tuning in plan.tunings:
        if tuning.problem:
            print(f"arm {tuning.arm}: {tuning.problem}", file=sys.stderr)
    return plan, failed


def _run_all(
    make_plan: Callable[[Collection[str] | None], StudyPlan], pool: Path, executor: Executor
) -> list[Outcome]:
    """Launch every run as it can be made, a line for each that ends."""
    running: set[str] = set()
    plan, at_once = make_plan(()), 1

    def look() -> StudyStatus:
        return study_status(plan, pool, at_once)

    def replan(given_up: Collection[str]) -> StudyPlan:
        nonlocal plan
        plan = make_plan(given_up)
        return plan

    def on_change(planned: PlannedRun, state: State) -> None:
        nonlocal at_once
        (running.add if state is State.RUNNING else running.discard)(planned.run_id)
        at_once = max(at_once, len(running))
        if state in (State.DONE, State.FAILED):
            scores = RunDirectory(pool / planned.run_id).scores(planned.config.eval.split)
            shown = f"{scores['bits_per_byte']:.4f} bits/byte" if scores else state.value
            status = look()
            left = status.remaining_seconds
            rest = f"; about {format_seconds(left)} to go" if left else ""
            place = f"[{status.n_finished}/{len(status.runs)}]"
            print(f"{place} {_label(planned)}: {shown}{rest}", file=sys.stderr, flush=True)

    before = look()
    if before.n_finished:
        said = f"{before.n_finished} of {len(before.runs)} runs are finished already"
        print(said, file=sys.stderr)
    with live_table(look):
        return launch(plan, pool, executor, on_change, replan)


def _label(run: PlannedRun) -> str:
    label = f"{run.arm}, rung {name_rung(run.rung.index, run.rung.branch)}, seed {run.seed}"
    if run.role == "bracket":
        label += f", rate {run.config.optim.learning_rate:.3g}"
    return label + (f", {run.role}" if run.role != "ladder" else "")
