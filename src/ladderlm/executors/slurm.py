"""Run jobs through Slurm, using submitit.

Owns the submission of jobs and the reading of `squeue`. Nodes share the file system and the Python
environment. Jobs outlive the process that submitted them; `reattach` finds them again. Variables
that sbatch reads, such as SBATCH_PARTITION, SBATCH_ACCOUNT and SBATCH_TIMELIMIT, take effect.
"""

import getpass
import hashlib
import math
import subprocess
import time
from pathlib import Path
from typing import Any

from ladderlm.errors import ExecutorError
from ladderlm.executors.base import Handle, Job, State
from ladderlm.executors.process import SAVE_SECONDS, run_to_end

__all__ = ["SlurmExecutor"]

MEMORY_MARGIN = 2  # Slurm kills a job above its request, and the request is an estimate
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


class SlurmExecutor:
    """Executor that submits each job to Slurm's queue.

    Args:
        folder: folder of submitit's files, visible to all nodes.
        poll_seconds: shortest time between two calls of `squeue`.
    """

    def __init__(self, folder: Path, poll_seconds: float = 5.0) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ExecutorError(
                "submitit is not installed", fix="install ladderlm[slurm]"
            ) from error
        self._submitit: Any = submitit
        self.folder = folder.absolute()
        self.poll_seconds = poll_seconds
        self._queue: dict[Handle, tuple[str, str]] = {}  # job id -> name, state
        self._asked = -math.inf
        self._ended: dict[Handle, int | None] = {}

    def submit(self, job: Job) -> Handle:
        """Put a job into the queue, and return Slurm's job id.

        Raises:
            ExecutorError: there is no Slurm, or it rejects the job.
        """
        needs = job.resources
        parameters: dict[str, Any] = {
            "job_name": _queue_name(job),
            "cpus_per_task": needs.n_threads,
            # since Slurm 22.05 a step does not inherit it from its job
            "srun_args": [f"--cpus-per-task={needs.n_threads}"],
            "time": math.ceil(needs.seconds / 60) if needs.seconds else None,  # Slurm's default
            "stderr_to_stdout": True,
        }
        if needs.n_devices:
            parameters["gpus_per_node"] = needs.n_devices
        if needs.memory_bytes:
            parameters["mem"] = f"{math.ceil(MEMORY_MARGIN * needs.memory_bytes / 2**20)}MB"
        try:
            executor = self._submitit.SlurmExecutor(self.folder)
            executor.update_parameters(**parameters)
            submitted = executor.submit(run_to_end, job)
        except (RuntimeError, OSError, subprocess.SubprocessError, self._refusals()) as error:
            raise ExecutorError(
                f"Slurm rejects job {job.name}: {error}",
                fix="check the limits that `sinfo` shows against the job's needs",
            ) from error
        self._asked = -math.inf
        return str(submitted.job_id)

    def _refusals(self) -> Any:
        return self._submitit.core.utils.FailedJobError

    def reattach(self, job: Job) -> Handle | None:
        """Return the job of this name that an earlier process left in the queue, or None."""
        own = _queue_name(job)
        return next((handle for handle, (name, _) in self._look().items() if name == own), None)

    def poll(self, handle: Handle) -> State:
        """Return the state of a job. If it left the queue without a result, it failed."""
        if handle in self._ended:
            return State.DONE if self._ended[handle] == 0 else State.FAILED
        gone = handle not in self._look()
        job = self._submitit.SlurmJob(self.folder, handle)
        if job.paths.result_pickle.exists():
            try:
                self._ended[handle] = int(job.result())
            except self._refusals():
                self._ended[handle] = None
        elif gone:
            self._ended[handle] = None
        else:
            return State.QUEUED if self._queue[handle][1] in _WAITING else State.RUNNING
        return self.poll(handle)

    def _look(self) -> dict[Handle, tuple[str, str]]:
        """Return this user's jobs as `squeue` lists them, at most `poll_seconds` old."""
        if time.monotonic() - self._asked > self.poll_seconds:
            words = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i|%j|%T"]
            try:
                output = subprocess.check_output(
                    words, stderr=subprocess.PIPE, text=True, timeout=60
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise ExecutorError(
                    f"cannot read Slurm's queue: {error}", fix="check that `squeue` works here"
                ) from error
            rows = [line.split("|") for line in output.splitlines()]
            self._queue = {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}
            self._asked = time.monotonic()
        return self._queue

    def cancel(self, *handles: Handle) -> None:
        """Remove queued jobs; ask running ones to save and end, and wait for them."""
        active = [handle for handle in handles if handle not in self._ended]
        if not active:
            return
        subprocess.run(["scancel", *active], check=False, capture_output=True)
        deadline = time.monotonic() + SAVE_SECONDS + 30
        while time.monotonic() < deadline and set(active) & set(self._look()):
            time.sleep(self.poll_seconds)

    def exit_code(self, handle: Handle) -> int | None:
        """Return the exit code of an ended job, or None if it left no result."""
        return self._ended.get(handle)


def _queue_name(job: Job) -> str:
    """Return a job's name in the queue, unique to its name and log file."""
    place = hashlib.sha256(str(job.log.absolute()).encode()).hexdigest()[:8]
    return f"ladderlm-{job.name}-{place}"
