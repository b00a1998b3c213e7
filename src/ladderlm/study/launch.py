"""Carry out the runs of a plan.

Owns the jobs of a study: which runs still need one, and what became of each. A finished run is
never started again; its folder is the truth.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from ladderlm.config import to_dict
from ladderlm.executors.base import Executor, Job, Outcome, Resources, State, run_all
from ladderlm.files import publish_json
from ladderlm.run.directory import RunDirectory
from ladderlm.study.cost import estimate_memory
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planned import PlannedRun

__all__ = ["launch", "pending_runs"]


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


def launch(
    plan: StudyPlan,
    pool: Path,
    executor: Executor,
    on_change: Callable[[PlannedRun, State], None] = lambda run, state: None,
) -> list[Outcome]:
    """Run what is not finished; give how each ended. One failure does not stop the others.

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
                env={"OMP_NUM_THREADS": str(n_threads), "MKL_NUM_THREADS": str(n_threads)},
                resources=Resources(
                    n_threads,
                    n_devices=int(execution.device == "cuda"),
                    memory_bytes=estimate_memory(run),
                ),
            )
        )
    return run_all(executor, jobs, lambda job, state: on_change(runs[job.name], state))
