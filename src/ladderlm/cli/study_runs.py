"""How `ladderlm study run` carries out a study: stage by stage, told as it goes."""

import sys
from collections.abc import Callable
from pathlib import Path

from ladderlm.cli.study_tables import live_table
from ladderlm.executors.base import Executor, Outcome, State
from ladderlm.executors.local import LocalExecutor
from ladderlm.files import FolderLock
from ladderlm.run.directory import RunDirectory
from ladderlm.study.ladder import name_rung
from ladderlm.study.launch import launch, pending_runs, release_trunks
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planned import PlannedRun
from ladderlm.study.status import study_status
from ladderlm.units import format_seconds

__all__ = ["carry_out"]


def carry_out(
    make_plan: Callable[[], StudyPlan], folder: Path, pool: Path, executor: Executor | None = None
) -> tuple[StudyPlan, list[Outcome]]:
    """Run what is not finished; give the last plan and the runs that failed.

    Args:
        make_plan: called anew after every stage: what a search has found decides on later runs.
        executor: None: this machine.
    """
    executor = executor or LocalExecutor()
    outcomes: dict[str, Outcome] = {}
    with FolderLock(folder):
        plan = make_plan()
        while True:
            for outcome in _run_stage(plan, pool, executor):
                outcomes[outcome.job.name] = outcome
            done = {run.run_id for run in plan.settled}
            plan = make_plan()
            if {run.run_id for run in plan.settled} <= done:
                break
        release_trunks(plan, pool)
    failed = [outcome for outcome in outcomes.values() if outcome.state is State.FAILED]
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


def _run_stage(plan: StudyPlan, pool: Path, executor: Executor) -> list[Outcome]:
    """Launch the runs that can be made now, a line for each that ends."""
    n_all = len({planned.run_id for planned in plan.runs})
    n_done = len({planned.run_id for planned in plan.settled}) - len(pending_runs(plan, pool))
    if n_done:
        print(f"{n_done} of {n_all} runs are finished already", file=sys.stderr)

    running: set[str] = set()
    at_once = 1

    def on_change(planned: PlannedRun, state: State) -> None:
        nonlocal n_done, at_once
        n_done += state is State.DONE
        (running.add if state is State.RUNNING else running.discard)(planned.run_id)
        at_once = max(at_once, len(running))
        if state in (State.DONE, State.FAILED):
            scores = RunDirectory(pool / planned.run_id).scores(planned.config.eval.split)
            shown = f"{scores['bits_per_byte']:.4f} bits/byte" if scores else state.value
            left = study_status(plan, pool, at_once).remaining_seconds
            rest = f"; about {format_seconds(left)} to go" if left else ""
            line = f"[{n_done}/{n_all}] {_label(planned)}: {shown}{rest}"
            print(line, file=sys.stderr, flush=True)

    with live_table(lambda: study_status(plan, pool, at_once)):
        return launch(plan, pool, executor, on_change)


def _label(run: PlannedRun) -> str:
    label = f"{run.arm}, rung {name_rung(run.rung.index, run.rung.branch)}, seed {run.seed}"
    if run.role == "bracket":
        label += f", rate {run.config.optim.learning_rate:.3g}"
    return label + (f", {run.role}" if run.role != "ladder" else "")
