"""How long and how carefully a model is trained.

Owns `TrainConfig` (length, batch, seed), `CheckpointConfig` and `ExecutionConfig`.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.config import execution_field
from ladderlm.errors import ConfigError

__all__ = ["CheckpointConfig", "ExecutionConfig", "TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch and seed of a run."""

    n_steps: int = 1000  # optimizer updates
    global_batch_tokens: int = 4096  # row positions of one update, over all processes
    seed: int = 1  # initial weights and dropout; the order of data has its own
    precision: Literal["float32", "bf16"] = "float32"  # of products; weights are always float32
    log_every_steps: int = 10  # the first and the last step are always logged

    def __post_init__(self) -> None:
        for name in ("n_steps", "global_batch_tokens", "log_every_steps"):
            if not 1 <= getattr(self, name) < 2**40:
                raise ConfigError(f"train.{name} = {getattr(self, name)}", "it is at least 1")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"train.seed = {self.seed}", "it lies in [0, 2^32)")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved and how many states are kept. Neither changes a number."""

    every_steps: int | None = execution_field(None)  # None: ten times a run, at validations
    keep: int = execution_field(1)  # newest checkpoints kept beside the best one

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ConfigError(f"checkpoint.every_steps = {self.every_steps}", "it is at least 1")
        if self.keep < 1:
            raise ConfigError(
                f"checkpoint.keep = {self.keep}",
                "a run without a checkpoint cannot be resumed",
                "keep at least 1",
            )


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Where and how a run is carried out. Recorded, never part of the run's name."""

    device: Literal["auto", "cpu", "cuda"] = execution_field("auto")  # auto: cuda if any
    n_threads: int | None = execution_field(
        None
    )  # CPU threads; None: all cores this process may use
    micro_batch_seqs: int | None = execution_field(
        None
    )  # rows per forward pass; None: 8192 tokens' worth
    float32_matmul: Literal["auto", "highest", "medium"] = execution_field(
        "auto"
    )  # auto: medium (oneDNN) on a CPU where a probe finds it exact, else highest
    compile: Literal["auto", "on", "off"] = execution_field(
        "auto"
    )  # torch.compile of the layers; auto: long bf16 runs without dropout

    def __post_init__(self) -> None:
        for name in ("n_threads", "micro_batch_seqs"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**31:
                raise ConfigError(f"execution.{name} = {value}", "it is at least 1")
