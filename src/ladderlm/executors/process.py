"""One child process for one job.

Owns how a job's process is started, followed to its end and asked to save; all executors use it,
here or on the machine that a cluster has chosen. A child dies with the process that started it, so
no orphan trains on behind a killed study.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from ladderlm.errors import ExecutorError
from ladderlm.executors.base import Job
from ladderlm.files import open_log

__all__ = ["SAVE_SECONDS", "run_to_end", "start_process", "stop_processes"]

SAVE_SECONDS = 30  # a run that is asked to end may take this long to save
NOT_FOUND = 127  # as shells do
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends (Linux; elsewhere a no-op)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start_process(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a job in its folder, with nothing to read and its log to write to.

    Args:
        environment: all variables of the process but the job's own, which are laid over them.

    Raises:
        ExecutorError: there is no such program.
    """
    with open_log(job.log) as log:
        try:
            return subprocess.Popen(
                job.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment, **job.env},
                cwd=job.folder,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            raise ExecutorError(
                f"cannot start {job.argv[0]}: {error}", "", "check that it is installed"
            ) from error


def run_to_end(
    job: Job, told: Callable[[subprocess.Popen[bytes]], None] = lambda process: None
) -> int:
    """Run a job in the environment of this process; return its exit code.

    What keeps it from starting goes to its log, where the user will look.

    Args:
        told: given the process once it is started.
    """
    try:
        process = start_process(job, os.environ)
        told(process)
        return process.wait()
    except ExecutorError as error:
        with open_log(job.log) as log:
            log.write(f"{error}\n".encode())
        return NOT_FOUND


def stop_processes(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Send SIGTERM to all, return them `SAVE_SECONDS` in all to save, then SIGKILL to the rest."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + SAVE_SECONDS
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
