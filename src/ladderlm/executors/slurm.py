"""Run jobs through Slurm, by submitit.

Owns the submission of a job and the reading of `squeue`. Nodes share the file system and the Python
environment. Jobs outlive the process that submitted them; `reattach` finds them again.

What sbatch reads from the environment holds: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT ...
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

MEMORY_MARGIN = 2  # Slurm kills what holds more than it asked for, and a need is an estimate
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


class SlurmExecutor:
    """Submit each job to Slurm's queue.

    Args:
        folder: where submitit keeps its files; all nodes see it.
        poll_seconds: how often `squeue` is asked at most.
    """

    def __init__(self, folder: Path, poll_seconds: float = 5.0) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ExecutorError(
                "submitit is not installed",
                "--executor slurm submits with it",
                "install ladderlm[slurm]",
            ) from error
        self._submitit: Any = submitit
        self.folder = folder.absolute()
        self.poll_seconds = poll_seconds
        self._queue: dict[Handle, tuple[str, str]] = {}  # job id -> name, state
        self._asked = -math.inf
        self._ended: dict[Handle, int | None] = {}

    def submit(self, job: Job) -> Handle:
        """Put a job into the queue; return Slurm's job id.

        Raises:
            ExecutorError: there is no Slurm, or it refuses what the job asks for.
        """
        needs = job.resources
        parameters: dict[str, Any] = {
            "job_name": _queue_name(job),
            "cpus_per_task": needs.n_threads,
            # since Slurm 22.05 a step does not take it from its job
            "srun_args": [f"--cpus-per-task={needs.n_threads}"],
            "time": math.ceil(needs.seconds / 60) if needs.seconds else None,  # None: Slurm's own
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
                f"Slurm does not take job {job.name}: {error}",
                "",
                "check `sinfo`, and what the job asks for",
            ) from error
        self._asked = -math.inf
        return str(submitted.job_id)

    def _refusals(self) -> Any:
        utils = self._submitit.core.utils
        return utils.FailedJobError

    def reattach(self, job: Job) -> Handle | None:
        """Return the job of this name that an earlier process left in the queue, if any."""
        for handle, (name, _) in self._look().items():
            if name == _queue_name(job):
                return handle
        return None

    def poll(self, handle: Handle) -> State:
        """Return where a job stands. One that left the queue without a result has failed."""
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
        """Ask `squeue` for this user's jobs, unless it was asked a moment ago."""
        if time.monotonic() - self._asked > self.poll_seconds:
            words = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i|%j|%T"]
            try:
                said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
            except (OSError, subprocess.SubprocessError) as error:
                raise ExecutorError(
                    f"cannot ask Slurm for its queue: {error}", "", "check that `squeue` works here"
                ) from error
            rows = [line.split("|") for line in said.stdout.splitlines()]
            self._queue = {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}
            self._asked = time.monotonic()
        return self._queue

    def cancel(self, *handles: Handle) -> None:
        """Take jobs off the queue; ask those that run to save and end, and see them end."""
        active = [handle for handle in handles if handle not in self._ended]
        if not active:
            return
        subprocess.run(["scancel", *active], check=False, capture_output=True)
        deadline = time.monotonic() + SAVE_SECONDS + 30
        while time.monotonic() < deadline and set(active) & set(self._look()):
            time.sleep(self.poll_seconds)

    def exit_code(self, handle: Handle) -> int | None:
        """Return the exit code of an ended job; None if it left no result."""
        return self._ended.get(handle)


def _queue_name(job: Job) -> str:
    """Name a job in the queue so that the same work, and no other, is found again."""
    place = hashlib.sha256(str(job.log.absolute()).encode()).hexdigest()[:8]
    return f"ladderlm-{job.name}-{place}"
