"""Run jobs on this machine, one process each, packed on its cores.

Owns starting, watching and ending child processes. A child dies with its parent, so no orphan
trains on behind a killed study.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections import deque

from ladderlm.errors import ExecutorError
from ladderlm.executors.base import Handle, Job, State
from ladderlm.files import open_log

__all__ = ["LocalExecutor"]

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends (Linux; elsewhere a no-op)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class LocalExecutor:
    """Start jobs in order while their threads fit.

    Args:
        n_threads: cores to fill; None: all that this process may use.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self.n_threads = n_threads or available or os.cpu_count() or 1
        self._queue: deque[tuple[Handle, Job]] = deque()
        self._running: dict[Handle, tuple[Job, subprocess.Popen[bytes]]] = {}
        self._ended: dict[Handle, int] = {}
        self._n_submitted = 0

    def submit(self, job: Job) -> Handle:
        """Queue a job and start it if there is room.

        Raises:
            ExecutorError: it asks for more than the machine has.
        """
        if job.resources.n_devices:
            raise ExecutorError(
                f"job {job.name} asks for {job.resources.n_devices} GPUs",
                "the local executor of this version packs CPU runs",
                "run it by itself with `ladderlm train`",
            )
        self._n_submitted += 1
        handle = f"local-{self._n_submitted}"
        self._queue.append((handle, job))
        self._start_what_fits()
        return handle

    def _free_threads(self) -> int:
        return self.n_threads - sum(job.resources.n_threads for job, _ in self._running.values())

    def _start_what_fits(self) -> None:
        while self._queue:
            handle, job = self._queue[0]
            alone = not self._running
            if job.resources.n_threads > self._free_threads() and not alone:
                return
            self._queue.popleft()
            with open_log(job.log) as log:
                try:
                    process = subprocess.Popen(
                        job.argv,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, **job.env},
                        start_new_session=True,
                        preexec_fn=_die_with_parent,
                    )
                except OSError as error:
                    raise ExecutorError(
                        f"cannot start {job.argv[0]}: {error}", "", "check that it is installed"
                    ) from error
            self._running[handle] = (job, process)

    def poll(self, handle: Handle) -> State:
        """Say where a job stands, after collecting all that have ended."""
        for running, (_, process) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                self._ended[running] = code
                del self._running[running]
        self._start_what_fits()
        if handle in self._ended:
            return State.DONE if self._ended[handle] == 0 else State.FAILED
        return State.RUNNING if handle in self._running else State.QUEUED

    def cancel(self, handle: Handle) -> None:
        """Send SIGTERM and wait up to 30 seconds for the job to save, then SIGKILL."""
        self._queue = deque(entry for entry in self._queue if entry[0] != handle)
        if handle in self._running:
            _, process = self._running[handle]
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def exit_code(self, handle: Handle) -> int | None:
        """Give the exit code of an ended job."""
        return self._ended.get(handle)
