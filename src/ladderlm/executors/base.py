"""Run command lines somewhere, with resources.

Owns the contract between what wants work done and what does it. Knows nothing of models: the
truth about a run is its folder, never the executor's memory.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

__all__ = ["Executor", "Handle", "Job", "Outcome", "Resources", "State", "run_jobs"]


@dataclass(frozen=True)
class Resources:
    """What a job needs.

    Args:
        n_threads: CPU threads.
        n_devices: GPUs.
        memory_bytes: peak memory; 0: unknown.
        seconds: longest wall time; None: no limit.
    """

    n_threads: int = 1
    n_devices: int = 0
    memory_bytes: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class Job:
    """One command line.

    Args:
        name: shown to the user, unique among the jobs of a call.
        argv: program and arguments.
        log: file that standard output and error are appended to.
        env: variables laid over this process's own.
        folder: where it is started; paths among the arguments may be relative to it.
        after: name of a job that must have ended, well or not, before this one is handed over.
        rank: of those that wait on this machine, the lowest starts first; a cluster has an order
            of its own.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)
    resources: Resources = field(default_factory=Resources)
    after: str | None = None
    rank: tuple[float, ...] = ()


class State(Enum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


Handle = str


class Executor(Protocol):
    """Starts jobs and watches them."""

    def submit(self, job: Job) -> Handle:
        """Take a job; return the handle by which it is asked for."""
        ...

    def poll(self, handle: Handle) -> State:
        """Return where a job stands; starts queued jobs when there is room."""
        ...

    def cancel(self, *handles: Handle) -> None:
        """Ask jobs to end (SIGTERM, so that they save) and see them end, or unqueue them."""
        ...

    def reattach(self, job: Job) -> Handle | None:
        """Return the handle of this very job where an earlier process left it queued or running."""
        ...

    def exit_code(self, handle: Handle) -> int | None:
        """Return the exit code of a job that has ended."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a job ended, after all its tries."""

    job: Job
    state: State
    exit_code: int | None
    n_tries: int


def run_jobs(
    executor: Executor,
    jobs: Sequence[Job],
    on_change: Callable[[Job, State], None] = lambda job, state: None,
    max_tries: int = 2,
    back_off_seconds: float = 1.0,
    poll_seconds: float = 0.1,
    more: Callable[[Sequence[Outcome]], Sequence[Job]] = lambda ended: (),
) -> list[Outcome]:
    """Carry jobs to their ends; a failed one is tried again after a growing pause, then given up.

    Exit code 2 (wrong use or bad input) is never tried again: it would fail the same way.

    Args:
        on_change: called when a job starts, ends or fails; may raise, and then all are cancelled.
        max_tries: starts of one job at most.
        back_off_seconds: pause before the second try; doubles with each.
        more: called when a job has ended for good, with all outcomes by now; gives what there is
            to carry out besides.

    Returns:
        Outcomes in the order of the jobs, those of `more` last.
    """
    active: dict[Handle, tuple[Job, int, State]] = {}
    waiting: list[tuple[float, Job, int]] = []
    outcomes: dict[str, Outcome] = {}
    every, held = list(jobs), list(jobs)
    try:
        while active or waiting or held:
            to_come = {job.name for job in every} - outcomes.keys()
            free = [job for job in held if job.after not in to_come]
            held = [job for job in held if job not in free]
            for job in free:
                active[executor.reattach(job) or executor.submit(job)] = (job, 1, State.QUEUED)
            due = [entry for entry in waiting if entry[0] <= time.monotonic()]
            waiting = [entry for entry in waiting if entry not in due]
            for _, job, n_tries in due:
                active[executor.submit(job)] = (job, n_tries, State.QUEUED)
            n_ended = len(outcomes)
            for handle, (job, n_tries, before) in list(active.items()):
                state = executor.poll(handle)
                if state is not before:
                    active[handle] = (job, n_tries, state)
                    on_change(job, state)
                if state in (State.DONE, State.FAILED):
                    del active[handle]
                    code = executor.exit_code(handle)
                    if state is State.FAILED and n_tries < max_tries and code != 2:
                        pause = back_off_seconds * 2 ** (n_tries - 1)
                        waiting.append((time.monotonic() + pause, job, n_tries + 1))
                    else:
                        outcomes[job.name] = Outcome(job, state, code, n_tries)
            if len(outcomes) > n_ended:
                added = more(list(outcomes.values()))
                every, held = [*every, *added], [*held, *added]
            if len(outcomes) == n_ended:  # else there is room for the next one at once
                time.sleep(poll_seconds)
    except BaseException:
        executor.cancel(*active)
        raise
    return [outcomes[job.name] for job in every]
