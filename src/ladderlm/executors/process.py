"""Run one job in one child process.

Owns how a job's process is started, waited for and asked to save. All executors use it, on this
machine or on the node that a cluster has chosen. A child ends with the process that started it, so
that no run keeps training after its study was killed.
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

SAVE_SECONDS = 30  # time that a run gets to save when it is asked to end
NOT_FOUND = 127  # as shells do
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends (Linux; elsewhere a no-op)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start_process(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a job in its folder, with empty standard input and its output going to its log.

    Args:
        environment: variables of the process; the job's own are added.

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
                f"cannot start {job.argv[0]}: {error}", fix="check that it is installed"
            ) from error


def run_to_end(
    job: Job, on_start: Callable[[subprocess.Popen[bytes]], None] = lambda process: None
) -> int:
    """Run a job in the environment of this process, and return its exit code.

    An error that prevents the start is written to the job's log, where the user will look.

    Args:
        on_start: called with the started process.
    """
    try:
        process = start_process(job, os.environ)
        on_start(process)
        return process.wait()
    except ExecutorError as error:
        with open_log(job.log) as log:
            log.write(f"{error}\n".encode())
        return NOT_FOUND


def stop_processes(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Send SIGTERM to all, wait `SAVE_SECONDS` in all for them, and send SIGKILL to the rest."""
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
