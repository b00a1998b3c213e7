"""Run command lines with resources.

Owns the contract between the code that needs jobs run and the executors that run them. Knows
nothing about models: the state of a run is read from its folder, never from an executor.
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
    """Threads, GPUs, memory and time that a job needs.

    Args:
        memory_bytes: peak memory; 0 if unknown.
        seconds: limit on the wall time; None for no limit.
    """

    n_threads: int = 1
    n_devices: int = 0
    memory_bytes: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class Job:
    """A command line to run.

    Args:
        name: shown to the user, unique among the jobs of a call.
        argv: program and arguments.
        log: file that standard output and error are appended to.
        env: environment variables that are set in addition to those of this process.
        folder: working directory; paths among the arguments may be relative to it.
        after: name of a job that must have ended, successfully or not, before this one is
            submitted.
        rank: on this machine, the waiting job with the lowest rank starts first. A cluster
            schedules by its own rules.
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
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


Handle = str


class Executor(Protocol):
    """Interface of everything that starts jobs and watches them."""

    def submit(self, job: Job) -> Handle:
        """Accept a job and return its handle."""

    def poll(self, handle: Handle) -> State:
        """Return the state of a job, after starting queued jobs that fit."""

    def cancel(self, *handles: Handle) -> None:
        """Remove queued jobs; send SIGTERM to running ones, so that they save, and wait."""

    def reattach(self, job: Job) -> Handle | None:
        """Return the handle of a job that an earlier process left queued or running, or None."""

    def exit_code(self, handle: Handle) -> int | None:
        """Return the exit code of a job that has ended."""


@dataclass(frozen=True)
class Outcome:
    """Result of a job after its last attempt."""

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
    """Run jobs to their ends, and retry a failed one after a pause that doubles each time.

    Exit code 2 (wrong use or bad input) is not retried, because it would fail the same way.

    Args:
        on_change: called when a job starts, ends or fails. If it raises, all jobs are cancelled.
        max_tries: largest number of attempts per job.
        back_off_seconds: pause before the second attempt.
        more: called with all outcomes so far whenever jobs have ended; returns further jobs to run.

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
            for job in [job for job in held if job.after not in to_come]:
                held.remove(job)
                active[executor.reattach(job) or executor.submit(job)] = (job, 1, State.QUEUED)
            for entry in [entry for entry in waiting if entry[0] <= time.monotonic()]:
                waiting.remove(entry)
                active[executor.submit(entry[1])] = (*entry[1:], State.QUEUED)
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
            if len(outcomes) == n_ended:  # otherwise the next job may fit at once
                time.sleep(poll_seconds)
            else:
                added = more(list(outcomes.values()))
                every, held = [*every, *added], [*held, *added]
    except BaseException:
        executor.cancel(*active)
        raise
    return [outcomes[job.name] for job in every]
