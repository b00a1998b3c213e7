"""From the name of an executor to the executor."""

from pathlib import Path
from typing import Literal

from ladderlm.errors import ConfigError
from ladderlm.executors.base import Executor
from ladderlm.executors.local import LocalExecutor

__all__ = ["ExecutorName", "make_executor", "require_threads"]

ExecutorName = Literal["local", "ray", "slurm"]


def make_executor(name: ExecutorName, folder: Path, n_threads: int | None = None) -> Executor:
    """Make an executor; the packages of clusters are imported only here.

    Args:
        folder: where it may keep files of its own.
        n_threads: cores to fill, where that is ours to say; None: all.

    Raises:
        ConfigError: cores are named and the executor's cluster decides on them, or fewer than one.
        ExecutorError: its package is not installed, or its cluster cannot be reached.
    """
    require_threads(n_threads)
    if name == "ray":
        from ladderlm.executors.ray import RayExecutor

        return RayExecutor(n_threads)
    if name == "slurm":
        if n_threads is not None:
            raise ConfigError(
                f"--threads {n_threads} with --executor slurm",
                "Slurm shares out the cores of its nodes",
                "leave --threads out",
            )
        from ladderlm.executors.slurm import SlurmExecutor

        return SlurmExecutor(folder / "slurm")
    return LocalExecutor(n_threads)


def require_threads(n_threads: int | None) -> None:
    """Refuse to fill fewer cores than one.

    Raises:
        ConfigError: they are.
    """
    if n_threads is not None and n_threads < 1:
        raise ConfigError(
            f"--threads {n_threads}",
            "a run needs a core",
            "name 1 or more, or leave it out to fill all",
        )
