"""Carry out the runs of a plan.

Owns the jobs of a study. A run whose folder holds a finished run is never started again.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ladderlm.checkpoint.layout import rotate
from ladderlm.config import to_dict
from ladderlm.executors.base import Executor, Job, Outcome, State, run_jobs
from ladderlm.files import publish_json
from ladderlm.run.directory import RunDirectory
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planner import PlannedRun
from ladderlm.study.schedule import in_order, rank, resources_of

__all__ = ["launch", "pending_runs", "release_trunks"]


def pending_runs(plan: StudyPlan, pool: Path) -> list[PlannedRun]:
    """List the settled runs that are not finished, each once, in the order of their starts."""
    pending: dict[str, PlannedRun] = {}
    for run in plan.settled:
        if not RunDirectory(pool / run.run_id).finished:
            pending.setdefault(run.run_id, run)
    return in_order(pending.values())


def release_trunks(plan: StudyPlan, pool: Path) -> None:
    """Delete the checkpoints that trunks keep for branches, once all of these are finished.

    A trunk's last and best checkpoints are kept.
    """
    runs = {run.run_id: run for run in plan.settled}
    for name in {run.trunk for run in runs.values() if run.trunk is not None}:
        trunk = RunDirectory(pool / name)
        family = [name, *(run.run_id for run in runs.values() if run.trunk == name)]
        if all(RunDirectory(pool / run_id).finished for run_id in family):
            best = (trunk.summary() or {}).get("best_step")
            keep = runs[name].config.checkpoint.keep
            rotate(trunk.checkpoints, keep, set() if best is None else {best})


def launch(
    plan: StudyPlan,
    pool: Path,
    executor: Executor,
    on_change: Callable[[PlannedRun, State], None] = lambda run, state: None,
    replan: Callable[[Collection[str]], StudyPlan] | None = None,
) -> list[Outcome]:
    """Carry out the runs that are not finished, and return their outcomes.

    A failed run does not stop the others. A branch starts when its trunk has ended, failed or not,
    and uses the checkpoints that are there. Provisional runs wait for a later plan, which is made
    whenever a run has ended.

    Args:
        on_change: called when a run starts and ends; may raise to stop (runs save and can be
            resumed later).
        replan: returns the next plan, given the runs that have failed for good; None: never.
    """
    runs: dict[str, PlannedRun] = {}

    def hand_over() -> list[Job]:
        new = [run for run in pending_runs(plan, pool) if run.run_id not in runs]
        runs.update({run.run_id: run for run in new})
        return [_job(run, pool) for run in new]

    def more(ended: Sequence[Outcome]) -> list[Job]:
        nonlocal plan
        if replan is None or len(plan.settled) == len(plan.runs):
            return []
        plan = replan({outcome.job.name for outcome in ended if outcome.state is State.FAILED})
        return hand_over()

    first = hand_over()
    return run_jobs(executor, first, lambda job, now: on_change(runs[job.name], now), more=more)


def _job(run: PlannedRun, pool: Path) -> Job:
    """Write the request of a run; return the job that carries it out."""
    request = pool / ".requests" / f"{run.run_id}.json"
    publish_json(request, to_dict(run.config))
    needs = resources_of(run)
    n_threads = str(needs.n_threads)
    return Job(
        name=run.run_id,
        argv=(sys.executable, "-m", "ladderlm.run", "--wait", str(request)),
        log=pool / run.run_id / "run.log",
        after=run.trunk,
        env={"OMP_NUM_THREADS": n_threads, "MKL_NUM_THREADS": n_threads},
        resources=needs,
        rank=rank(run),
    )
