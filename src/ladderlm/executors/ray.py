"""Run jobs on a Ray cluster, each in its own process on the node that Ray chooses.

Owns the actor that runs a job. Nodes share the file system and the Python environment. Jobs save
and end when their driver ends.
"""

import os
import subprocess
from typing import Any

from ladderlm.errors import ExecutorError
from ladderlm.executors.base import Handle, Job, State
from ladderlm.executors.process import SAVE_SECONDS, run_to_end, stop_processes

__all__ = ["RayExecutor"]


class _Actor:
    """Ray actor that holds the resources of one job and runs it."""

    def __init__(self, environment: dict[str, str]) -> None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")  # the GPUs that Ray has reserved
        os.environ.clear()
        os.environ.update(environment)
        if given is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = given
        self._started: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Do nothing. Ray answers this call once the job has its resources."""

    def run(self, job: Job) -> int:
        """Run the job to its end, and return its exit code."""
        return run_to_end(job, self._started.append)

    def stop(self) -> None:
        """Ask the job to save and end."""
        stop_processes(self._started)


class RayExecutor:
    """Executor on the Ray cluster at RAY_ADDRESS, or on a new one of this machine's cores.

    Args:
        n_threads: cores of a new cluster; None for all. Refused for an existing cluster.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ExecutorError("Ray is not installed", fix="install ladderlm[ray]") from error
        self._ray: Any = ray
        address = os.environ.get("RAY_ADDRESS")
        if address and n_threads:
            raise ExecutorError(
                f"--threads {n_threads} with an existing Ray cluster ({address}) of fixed size",
                fix="leave --threads out",
            )
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
        if not ray.is_initialized():
            own = {} if address else {"num_cpus": n_threads, "include_dashboard": False}
            place = address or "local"
            try:
                ray.init(address=place, log_to_driver=False, logging_level="ERROR", **own)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ExecutorError(
                    f"cannot reach a Ray cluster: {error}", fix="check RAY_ADDRESS"
                ) from error
        self._jobs: dict[Handle, tuple[Any, Any, Any]] = {}  # actor, answer to `begin`, result
        self._ended: dict[Handle, int | None] = {}

    def submit(self, job: Job) -> Handle:
        """Request the job's resources; it starts when Ray finds a node that has them free.

        A job with more threads than any node has cores takes a whole node.

        Raises:
            ExecutorError: no node has enough GPUs or memory.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        wanted = {"GPU": job.resources.n_devices, "memory": job.resources.memory_bytes}
        if not any(all(node.get(k, 0) >= n for k, n in wanted.items()) for node in nodes):
            raise ExecutorError(
                f"job {job.name} needs {job.resources.n_devices} GPUs and "
                f"{job.resources.memory_bytes / 1e9:.1f} GB of memory, "
                "but no node of the Ray cluster has them",
                fix="add a larger node to the cluster, or make the models of the study smaller",
            )
        most = max(node.get("CPU", 0) for node in nodes)
        kind = self._ray.remote(_Actor).options(
            num_cpus=min(job.resources.n_threads, most),
            num_gpus=job.resources.n_devices,
            memory=job.resources.memory_bytes or None,
            max_concurrency=2,
            max_restarts=0,
        )
        actor = kind.remote(dict(os.environ))
        handle = f"ray-{len(self._jobs) + 1}"
        self._jobs[handle] = (actor, actor.begin.remote(), actor.run.remote(job))
        return handle

    def reattach(self, job: Job) -> Handle | None:
        """Return None, since jobs end with the process that started them."""
        del job
        return None

    def poll(self, handle: Handle) -> State:
        """Return the state of a job. If its node was lost, it failed without an exit code."""
        if handle not in self._ended:
            actor, begun, result = self._jobs[handle]
            if not self._is_ready(result):
                return State.RUNNING if self._is_ready(begun) else State.QUEUED
            try:
                self._ended[handle] = self._ray.get(result)
            except self._ray.exceptions.RayError:
                self._ended[handle] = None
            self._ray.kill(actor)
        return State.DONE if self._ended[handle] == 0 else State.FAILED

    def _is_ready(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def cancel(self, *handles: Handle) -> None:
        """Remove queued jobs; ask running ones to save and end, and wait for them."""
        active = [handle for handle in handles if handle not in self._ended]
        running = [handle for handle in active if self.poll(handle) is State.RUNNING]
        for handle in active:
            if handle not in running:
                self._ray.kill(self._jobs[handle][0])
        for handle in running:
            self._jobs[handle][0].stop.remote()
        results = [self._jobs[handle][2] for handle in running]
        if results:
            self._ray.wait(results, num_returns=len(results), timeout=SAVE_SECONDS + 10)

    def exit_code(self, handle: Handle) -> int | None:
        """Return the exit code of an ended job, or None if its node was lost."""
        return self._ended.get(handle)
