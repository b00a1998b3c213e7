"""The order in which the runs of a plan start, and their dependencies.

Owns the one order in which `launch.py` hands runs to an executor and in which their wall time is
predicted. Starts nothing.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

from ladderlm.executors.base import Resources
from ladderlm.executors.job_packing import Packing
from ladderlm.study.cost import estimate_memory
from ladderlm.study.planner import PlannedRun

__all__ = ["in_order", "n_side_by_side", "rank", "resources_of", "wall_seconds"]


def rank(run: PlannedRun) -> tuple[float, ...]:
    """Return the rank of a run among those that could start; the lowest starts first.

    Searches and noise runs go before the ladder, which needs their results. Of the others the
    longest go first, which keeps all cores busy to the end.
    """
    return run.role == "ladder", -run.rung.budget


def in_order(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Sort runs by rank, with the arms of a pair side by side."""
    return sorted(runs, key=lambda run: (rank(run), run.seed, run.arm))


def resources_of(run: PlannedRun) -> Resources:
    """Return the threads, devices and memory of a run."""
    execution = run.config.execution
    return Resources(
        execution.n_threads or 1,
        n_devices=int(execution.device == "cuda"),
        memory_bytes=estimate_memory(run),
    )


def n_side_by_side(runs: Sequence[PlannedRun], room: Packing) -> int:
    """Return how many of these runs a machine can start at once."""
    for run in in_order(runs):
        room.add(run.run_id, resources_of(run), rank(run))
    n = 0
    while room.start() is not None:
        n += 1
    return max(n, 1)


def wall_seconds(
    runs: Sequence[PlannedRun],
    seconds_of: Callable[[PlannedRun], float],
    room: Packing,
    needs_of: Callable[[PlannedRun], Resources] = resources_of,
    running: Collection[str] = (),
) -> float:
    """Return the seconds until the last run ends, started in the order of `in_order`.

    A branch waits for its trunk, a provisional run for those that choose its rate or options. The
    growth of grids of rates is not predicted.

    Args:
        seconds_of: remaining seconds of a run; 0 if it has ended.
        room: of the empty machine.
        needs_of: resources of a run.
        running: runs that have started.
    """
    settled = {run.run_id: run for run in runs if not run.provisional}
    every = in_order([*settled.values(), *(run for run in runs if run.provisional)])
    waiting = {str(i): run for i, run in enumerate(every) if seconds_of(run) > 0}
    inputs = {
        name: {other for other, maker in waiting.items() if _feeds(maker, run)}
        for name, run in waiting.items()
    }
    now, left, ends = 0.0, len(waiting), dict[str, float]()

    def start_what_fits() -> None:
        while (name := room.start()) is not None:
            ends[name] = now + seconds_of(waiting[name])

    while left:
        start_what_fits()  # an executor does not wait for the next plan
        for name in [name for name, missing in inputs.items() if not missing]:
            run = waiting[name]
            room.add(name, needs_of(run), (run.run_id not in running, *rank(run)))
            del inputs[name]
        start_what_fits()
        ended = min(ends, key=ends.__getitem__)
        now = ends.pop(ended)
        room.end(ended)
        left -= 1
        for missing in inputs.values():
            missing.discard(ended)
    return now


def _feeds(maker: PlannedRun, run: PlannedRun) -> bool:
    """Return whether a run needs what another one makes."""
    if run.trunk is not None and (maker.run_id, maker.role) == (run.trunk, "ladder"):
        return True
    if not run.provisional or maker.arm != run.arm:
        return False
    lower = maker.rung.index < run.rung.index
    if run.role == "search":
        return maker.role == "search" and lower
    return maker.role == "bracket" and (run.role != "bracket" or lower)
