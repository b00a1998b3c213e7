"""Run jobs on this machine, one process each, within its cores, memory and GPUs.

Owns the processes and the resources of this machine; `job_packing.py` decides the order.
"""

import itertools
import logging
import os
import subprocess
from collections.abc import Sequence

from ladderlm.errors import ExecutorError
from ladderlm.executors.base import Handle, Job, State
from ladderlm.executors.job_packing import Packing
from ladderlm.executors.process import start_process, stop_processes
from ladderlm.machine import count_cores, count_free_bytes, list_gpus

__all__ = ["LocalExecutor"]

_log = logging.getLogger(__name__)


class LocalExecutor:
    """Executor that starts jobs by rank as long as threads, memory and GPUs are available.

    A job gets whole GPUs, so that other jobs do not slow it down. See `Packing`.

    Args:
        n_threads: number of cores to use; None for all that this process may use.
        memory_bytes: memory to use; None for what is free now.
        devices: GPUs to use; None for all that this process may use.
    """

    def __init__(
        self,
        n_threads: int | None = None,
        memory_bytes: int | None = None,
        devices: Sequence[str] | None = None,
    ) -> None:
        self.n_threads = n_threads or count_cores()
        self.memory_bytes = memory_bytes or count_free_bytes()
        self.devices = list_gpus() if devices is None else tuple(devices)
        self._room = self.room()
        self._waiting: dict[Handle, Job] = {}
        self._running: dict[Handle, tuple[Job, subprocess.Popen[bytes], tuple[str, ...]]] = {}
        self._ended: dict[Handle, int] = {}
        self._numbers = itertools.count(1)

    def room(self) -> Packing:
        """Return a new `Packing` of the whole machine, without any job."""
        return Packing(self.n_threads, self.memory_bytes, len(self.devices))

    def submit(self, job: Job) -> Handle:
        """Queue a job and start it if there is room.

        Raises:
            ExecutorError: the job needs more GPUs than there are, or cannot be started.
        """
        if job.resources.n_devices > len(self.devices):
            raise ExecutorError(
                f"job {job.name} needs {job.resources.n_devices} GPUs, "
                f"but this machine has {len(self.devices)}",
                fix="set execution.device to 'cpu', or run it on a machine with enough GPUs",
            )
        if job.resources.memory_bytes > self.memory_bytes:
            _log.warning(
                "job %s needs about %.1f GB of memory, but %.1f GB are free: it runs alone",
                job.name,
                job.resources.memory_bytes / 1e9,
                self.memory_bytes / 1e9,
            )
        handle = f"local-{next(self._numbers)}"
        self._waiting[handle] = job
        self._room.add(handle, job.resources, job.rank)
        self._start_what_fits()
        return handle

    def reattach(self, job: Job) -> Handle | None:
        """Return None, since jobs end with the process that started them."""
        del job
        return None

    def _start_what_fits(self) -> None:
        while (handle := self._room.start()) is not None:
            job = self._waiting.pop(handle)
            taken = {name for _, _, names in self._running.values() for name in names}
            free = [name for name in self.devices if name not in taken]
            names = tuple(free[: job.resources.n_devices])
            own = {"CUDA_VISIBLE_DEVICES": ",".join(names)} if self.devices else {}
            self._running[handle] = (job, start_process(job, {**os.environ, **own}), names)

    def poll(self, handle: Handle) -> State:
        """Return the state of a job, after collecting all jobs that have ended."""
        for running, (_, process, _) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                self._ended[running] = code
                del self._running[running]
                self._room.end(running)
        self._start_what_fits()
        if handle in self._ended:
            return State.DONE if self._ended[handle] == 0 else State.FAILED
        return State.RUNNING if handle in self._running else State.QUEUED

    def cancel(self, *handles: Handle) -> None:
        """Remove queued jobs; ask running ones to save and end, and wait for them."""
        self._room.drop(handles)
        stop_processes(self._running[handle][1] for handle in handles if handle in self._running)

    def exit_code(self, handle: Handle) -> int | None:
        """Return the exit code of an ended job."""
        return self._ended.get(handle)
