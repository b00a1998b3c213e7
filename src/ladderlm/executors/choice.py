"""Choose an executor by its name."""

from pathlib import Path
from typing import Literal

from ladderlm.config import require
from ladderlm.errors import ConfigError
from ladderlm.executors.base import Executor
from ladderlm.executors.local import LocalExecutor

__all__ = ["ExecutorName", "make_executor", "require_threads"]

ExecutorName = Literal["local", "ray", "slurm"]


def make_executor(name: ExecutorName, folder: Path, n_threads: int | None = None) -> Executor:
    """Build an executor; the packages of clusters are imported only here.

    Args:
        folder: folder for the executor's own files.
        n_threads: number of cores to use; None for all.

    Raises:
        ConfigError: n_threads is below 1, or is given although the cluster assigns the cores.
        ExecutorError: the package is not installed, or the cluster cannot be reached.
    """
    require_threads(n_threads)
    if name == "ray":
        from ladderlm.executors.ray import RayExecutor

        return RayExecutor(n_threads)
    if name == "slurm":
        if n_threads is not None:
            raise ConfigError(
                f"--threads {n_threads} with --executor slurm, which assigns the cores itself",
                fix="leave --threads out",
            )
        from ladderlm.executors.slurm import SlurmExecutor

        return SlurmExecutor(folder / "slurm")
    return LocalExecutor(n_threads)


def require_threads(n_threads: int | None) -> None:
    """Raise ConfigError if the number of cores to use is below 1."""
    holds = n_threads is None or n_threads >= 1
    require("--threads", n_threads, holds, "be at least 1", "leave --threads out to use all cores")
