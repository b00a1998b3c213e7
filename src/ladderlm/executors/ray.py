"""Run jobs on a Ray cluster, each in a process of its own on the node that Ray chooses.

Owns the actor that stands for a job. Nodes share the file system and the Python environment. Jobs
end with their driver, after saving.
"""

import os
import subprocess
from typing import Any

from ladderlm.errors import ExecutorError
from ladderlm.executors.base import Handle, Job, State
from ladderlm.executors.process import SAVE_SECONDS, run_to_end, stop_processes

__all__ = ["RayExecutor"]


class _Actor:
    """Lives in a Ray worker with the resources of one job, and runs it."""

    def __init__(self, environment: dict[str, str]) -> None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")  # the GPUs that Ray has put aside
        os.environ.clear()
        os.environ.update(environment)
        if given is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = given
        self._started: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Do nothing: that it is answered says that the job has its resources."""

    def run(self, job: Job) -> int:
        """Run the job to its end; return its exit code."""
        return run_to_end(job, self._started.append)

    def stop(self) -> None:
        """Ask the job to save and end."""
        stop_processes(self._started)


class RayExecutor:
    """Hand jobs to the cluster at RAY_ADDRESS, or to one of this machine's cores.

    Args:
        n_threads: cores of a cluster of this machine; None: all. Not for a cluster that runs.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ExecutorError(
                "Ray is not installed", "--executor ray runs on it", "install ladderlm[ray]"
            ) from error
        self._ray: Any = ray
        address = os.environ.get("RAY_ADDRESS")
        if address and n_threads:
            raise ExecutorError(
                f"--threads {n_threads} with a Ray cluster that runs ({address})",
                "the cluster has the cores that it has",
                "leave --threads out",
            )
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
        if not ray.is_initialized():
            own = {} if address else {"num_cpus": n_threads, "include_dashboard": False}
            try:
                ray.init(
                    address=address or "local", log_to_driver=False, logging_level="ERROR", **own
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ExecutorError(
                    f"cannot reach a Ray cluster: {error}", "", "check RAY_ADDRESS"
                ) from error
        self._jobs: dict[Handle, tuple[Any, Any, Any]] = {}  # actor, its first answer, its result
        self._ended: dict[Handle, int | None] = {}

    def submit(self, job: Job) -> Handle:
        """Ask the cluster for the job's resources; it starts when Ray finds them on a node.

        A job with more threads than any node has cores takes a whole node.

        Raises:
            ExecutorError: no node has as many GPUs or as much memory.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        wanted = {
            "GPU": float(job.resources.n_devices),
            "memory": float(job.resources.memory_bytes),
        }
        if not any(all(node.get(k, 0) >= n for k, n in wanted.items()) for node in nodes):
            raise ExecutorError(
                f"job {job.name} asks for {job.resources.n_devices} GPUs and "
                f"{job.resources.memory_bytes / 1e9:.1f} GB of memory",
                "no node of the Ray cluster has them, so it could never start",
                "add a node, or change the study",
            )
        most = max(node.get("CPU", 0) for node in nodes)
        actor = (
            self._ray.remote(_Actor)
            .options(
                num_cpus=min(job.resources.n_threads, most),
                num_gpus=job.resources.n_devices,
                memory=job.resources.memory_bytes or None,
                max_concurrency=2,
                max_restarts=0,
            )
            .remote(dict(os.environ))
        )
        handle = f"ray-{len(self._jobs) + 1}"
        self._jobs[handle] = (actor, actor.begin.remote(), actor.run.remote(job))
        return handle

    def reattach(self, job: Job) -> Handle | None:
        """Return None: jobs end with the process that started them."""
        del job
        return None

    def poll(self, handle: Handle) -> State:
        """Return where a job stands. One whose node was lost has failed, without an exit code."""
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
        """Drop jobs that wait; ask those that run to save and end, and see them end."""
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
        """Return the exit code of an ended job; None if its node was lost."""
        return self._ended.get(handle)
