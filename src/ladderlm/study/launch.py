"""Carry out the runs of a plan.

Owns the jobs of a study: which runs still need one, and what became of each. A finished run is
never started again; its folder is the truth.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from ladderlm.checkpoint.layout import rotate
from ladderlm.config import to_dict
from ladderlm.executors.base import Executor, Job, Outcome, Resources, State, run_all
from ladderlm.files import publish_json
from ladderlm.run.directory import RunDirectory
from ladderlm.study.cost import estimate_memory
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planned import PlannedRun

__all__ = ["launch", "pending_runs", "release_trunks"]


def pending_runs(plan: StudyPlan, pool: Path) -> list[PlannedRun]:
    """List runs that can be made and are not finished, each once, the most expensive first.

    Long runs first keep all cores busy to the end; noise runs and searches go before all others.
    """
    pending: dict[str, PlannedRun] = {}
    for run in plan.settled:
        if not RunDirectory(pool / run.run_id).finished:
            pending.setdefault(run.run_id, run)
    return sorted(pending.values(), key=_order)


def _order(run: PlannedRun) -> tuple[bool, float, int, str]:
    return run.role == "ladder", -run.rung.budget, run.seed, run.arm


def release_trunks(plan: StudyPlan, pool: Path) -> None:
    """Delete the checkpoints that trunks have kept for branches, where all of these are finished.

    A trunk's last and best one stay.
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
) -> list[Outcome]:
    """Run what is not finished; give how each ended. One failure does not stop the others.

    A branch waits until its trunk has ended, well or not: it takes over what is there.

    Args:
        pool: folder of the runs.
        on_change: told when a run starts and ends; may raise to stop (runs save and can go on
            later).
    """
    runs = {run.run_id: run for run in pending_runs(plan, pool)}
    jobs = []
    for run in runs.values():
        request = pool / ".requests" / f"{run.run_id}.json"
        publish_json(request, to_dict(run.config))
        execution = run.config.execution
        n_threads = execution.n_threads or 1
        jobs.append(
            Job(
                name=run.run_id,
                argv=(sys.executable, "-m", "ladderlm.run", "--wait", str(request)),
                log=pool / run.run_id / "run.log",
                after=run.trunk,
                env={"OMP_NUM_THREADS": str(n_threads), "MKL_NUM_THREADS": str(n_threads)},
                resources=Resources(
                    n_threads,
                    n_devices=int(execution.device == "cuda"),
                    memory_bytes=estimate_memory(run),
                ),
            )
        )
    return run_all(executor, jobs, lambda job, state: on_change(runs[job.name], state))
