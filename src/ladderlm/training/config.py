"""Options of length, batch, precision, checkpoints and execution of a run.

Owns `TrainConfig`, `CheckpointConfig` and `ExecutionConfig`.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.changes import MetaChange
from ladderlm.config import added_later, execution_field, require

__all__ = [
    "TRAIN_CHANGES",
    "BatchGrowth",
    "CheckpointConfig",
    "ExecutionConfig",
    "Precision",
    "TrainConfig",
]

Precision = Literal["auto", "float32", "bf16", "bf16-autocast", "fp16"]


@dataclass(frozen=True)
class BatchGrowth:
    """Rows of each update: a linear rise from the first update on, then constant.

    All numbers are integers and functions of the step alone, since the count of rows is the state
    of the data. Source of the linear rise: Brown et al. 2020 (GPT-3), appendix B.

    Args:
        first, full: rows of the first update and of those after the rise.
        n_rising: updates of the rise; 0: the batch is constant.
    """

    first: int
    full: int
    n_rising: int

    def rows_before(self, step: int) -> int:
        """Return the number of rows of all updates before `step` (0-based) together."""
        rising = min(step, self.n_rising)
        grown = (self.full - self.first) * rising * (rising - 1) // (2 * max(self.n_rising, 1))
        return self.first * rising + grown + self.full * (step - rising)

    def rows_at(self, step: int) -> int:
        """Return the number of rows of update number `step` (0-based)."""
        return self.rows_before(step + 1) - self.rows_before(step)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch and seed of a run."""

    n_steps: int = 1000
    """Number of optimizer updates."""
    global_batch_tokens: int = 4096
    """Tokens of one update over all processes. It is a multiple of `data.seq_len`."""
    first_batch_tokens: int | None = added_later(None)
    """Tokens of the first update; the batch grows linearly to `global_batch_tokens` (Brown et al.
    2020, appendix B). Default: a constant batch."""
    batch_warmup_fraction: float = added_later(0.1)
    """Fraction of all updates over which the batch grows."""
    seed: int = 1
    """Seed of initial weights and dropout. The order of data has its own seed."""
    precision: Precision = "float32"
    """Precision of matrix multiplications; weights are always stored in float32. float32: full
    precision. bf16: bfloat16 copies of the weights. bf16-autocast: bfloat16 by torch.autocast.
    fp16: float16 with a scaled loss. auto: bf16 or fp16 on a GPU; bf16 on a CPU that has the
    instructions, else float32."""
    z_loss: float | None = added_later(None)
    """Factor on (log Z)^2 in the loss, which keeps logits small. PaLM uses 1e-4 (Chowdhery et al.
    2022, section 5). Default: not added."""
    ema_decay: float | None = added_later(None)
    """Decay per update of an exponential moving average of the weights, which is saved with the
    run. Default: no average."""
    log_every_steps: int = 10
    """Number of updates between logged ones. The first and the last are always logged."""

    def __post_init__(self) -> None:
        for name in ("n_steps", "global_batch_tokens", "log_every_steps"):
            value = getattr(self, name)
            require(f"train.{name}", value, 1 <= value < 2**40, "be at least 1 and below 2^40")
        valid = 0 <= self.seed < 2**32
        require("train.seed", self.seed, valid, "be at least 0 and below 2^32")
        first, full = self.first_batch_tokens, self.global_batch_tokens
        valid = first is None or 1 <= first <= full
        rule = f"be between 1 and train.global_batch_tokens = {full}"
        require("train.first_batch_tokens", first, valid, rule, "leave it out for a constant batch")
        share = self.batch_warmup_fraction
        require("train.batch_warmup_fraction", share, 0 < share <= 1, "be above 0 and at most 1")
        valid = self.z_loss is None or self.z_loss > 0
        require("train.z_loss", self.z_loss, valid, "be positive", "leave it out to turn it off")
        valid = self.ema_decay is None or 0 < self.ema_decay < 1
        require("train.ema_decay", self.ema_decay, valid, "be above 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved and how many states are kept. Neither changes a number."""

    every_steps: int | None = execution_field(None)
    """Number of updates between checkpoints. Default: ten checkpoints per run."""
    keep: int = execution_field(1)
    """Number of newest checkpoints to keep. The best one is kept too."""
    keep_steps: tuple[int, ...] = execution_field(())
    """Updates after which a checkpoint is saved and never deleted. Shorter runs can start from
    these."""

    def __post_init__(self) -> None:
        valid = self.every_steps is None or self.every_steps >= 1
        require("checkpoint.every_steps", self.every_steps, valid, "be at least 1")
        require("checkpoint.keep", self.keep, self.keep >= 1, "be at least 1")
        kept = list(self.keep_steps)
        require("checkpoint.keep_steps", kept, min(kept, default=1) >= 1, "be at least 1 each")


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Where and how a run is carried out. Recorded, never part of the run's name."""

    device: Literal["auto", "cpu", "cuda"] = execution_field("auto")
    """Where the run is carried out. auto: cuda if there is a GPU, otherwise cpu."""
    n_threads: int | None = execution_field(None)
    """Number of CPU threads. Default: all cores that this process may use."""
    micro_batch_seqs: int | None = execution_field(None)
    """Number of rows per forward pass. Default: as many as hold 8192 tokens."""
    fit_micro_batch: bool = execution_field(False)
    """Find the largest `micro_batch_seqs` that fits into the GPU's memory before the first
    update."""
    float32_matmul: Literal["auto", "highest", "medium"] = execution_field("auto")
    """Precision of float32 matrix multiplications in PyTorch. highest: exact float32. medium:
    faster kernels (oneDNN on a CPU). auto: medium on a CPU where a test finds it exact, otherwise
    highest."""
    compile: Literal["auto", "on", "off"] = execution_field("auto")
    """Compile the layers with torch.compile. on: compile. off: do not. auto: compile long
    half-precision runs with one row shape and no dropout."""
    recompute: Literal["none", "layers"] = execution_field("none")
    """Recompute activations in the backward pass to save memory. none: store all of them. layers:
    recompute those inside each layer."""
    shard: Literal["none", "optimizer", "weights"] = execution_field("none")
    """What is split over processes. none: nothing. optimizer: the optimizer's state, whole tensors
    to each process. weights: rows of weights, gradients and state (FSDP2)."""
    start_from: str | None = execution_field(None)
    """Folder of a longer run with the schedule wsd. This run starts from the newest checkpoint of
    it that both have in common. Default: start from initial weights."""

    def __post_init__(self) -> None:
        for name in ("n_threads", "micro_batch_seqs"):
            value = getattr(self, name)
            valid = value is None or 1 <= value < 2**31
            require(f"execution.{name}", value, valid, "be at least 1 and below 2^31")


TRAIN_CHANGES = (
    MetaChange(
        "Training",
        "none",
        "gradient accumulation, validation, exact resume, checkpoints without pickle",
        "training/, run/, checkpoint/",
        {
            "train.z_loss": "a penalty on the normaliser of the logits",
            "train.ema_decay": "an average of the weights",
            "execution.recompute": {
                "none": "activations are kept",
                "layers": "they are computed again in the backward pass",
            },
        },
    ),
    MetaChange(
        "Devices and precision",
        "CUDA, half precision set globally",
        "weights, optimizer state and sums stay float32",
        "training/compute.py, model/precision.py, run/execute.py",
        {
            "execution.device": {"auto": "cuda if there is one", "cpu": "", "cuda": ""},
            "train.precision": {
                "auto": "by the device",
                "float32": "",
                "bf16": "copies of the weights",
                "bf16-autocast": "float32 residual stream",
                "fp16": "with a scaled loss",
            },
            "execution.float32_matmul": {
                "auto": "medium where a probe finds it exact",
                "highest": "",
                "medium": "oneDNN on a CPU",
            },
            "execution.compile": {"auto": "where it pays", "on": "", "off": ""},
        },
    ),
    MetaChange(
        "Many processes",
        "model parallel, one process per shard of the weights",
        "data parallel, with the same rows in the same order for any number of processes",
        "dist.py, training/sharding.py",
        {
            "execution.shard": {
                "none": "every process holds everything",
                "optimizer": "state by whole tensors",
                "weights": "FSDP2",
            }
        },
    ),
)
