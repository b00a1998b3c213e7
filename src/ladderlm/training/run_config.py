"""`RunConfig`: all options of one run, and the hash that names it.

Owns the assembly of the parts and `NUMERICS_VERSION`. `run/resolve.py` resolves a config against
data and machine.
"""

import functools
import math
from dataclasses import dataclass, field

from ladderlm.config import content_hash, execution_field, meaning_of
from ladderlm.data.config import DataConfig
from ladderlm.errors import ConfigError
from ladderlm.eval.config import EvalConfig, Policy
from ladderlm.model.config import ModelConfig
from ladderlm.optim.config import OptimConfig
from ladderlm.training.config import BatchGrowth, CheckpointConfig, ExecutionConfig, TrainConfig

__all__ = ["NUMERICS_VERSION", "RunConfig"]

NUMERICS_VERSION = 2  # raised by hand whenever the golden run's losses move


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run.

    Meaning (hashed): model, optimizer, data and its fingerprints, batch, length, seeds,
    precision, what is validated. Execution (recorded): paths, device, threads, micro-batch.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    out: str | None = execution_field(None)
    """Folder of the run. Default: runs/ and the run's id."""
    numerics_version: int = NUMERICS_VERSION
    """Version of the numerics that the config was written for. A config of another version is
    refused."""

    def __post_init__(self) -> None:
        if self.numerics_version != NUMERICS_VERSION:
            raise ConfigError(
                f"numerics_version must be {NUMERICS_VERSION} in this ladderlm, got "
                f"{self.numerics_version}",
                "the config would give other numbers here than where it was written",
                "remove the key for a new run, or use the ladderlm version that wrote the config",
            )
        for name in ("global_batch_tokens", "first_batch_tokens"):
            n_tokens = getattr(self.train, name)
            n_rows, rest = divmod(n_tokens or 0, self.data.seq_len)
            if rest:
                raise ConfigError(
                    f"train.{name} must be a multiple of data.seq_len = {self.data.seq_len}, got "
                    f"{n_tokens}",
                    fix=f"set train.{name} to {self.data.seq_len * (n_rows + 1)}",
                )
        longest = max(self.data.seq_len, self.eval_context)
        if longest > self.model.max_seq_len:
            raise ConfigError(
                f"model.max_seq_len must be at least data.seq_len and eval.context, {longest}, "
                f"got {self.model.max_seq_len}",
                fix=f"set model.max_seq_len to {longest}",
            )

    @property
    def global_batch_seqs(self) -> int:
        """Rows of one update over all processes; with a growing batch, of the largest."""
        return self.train.global_batch_tokens // self.data.seq_len

    @property
    def batch_growth(self) -> BatchGrowth:
        """Rows of every update, over all processes."""
        train, full = self.train, self.global_batch_seqs
        if train.first_batch_tokens is None:
            return BatchGrowth(full, full, 0)
        n_rising = math.ceil(train.batch_warmup_fraction * train.n_steps)
        return BatchGrowth(train.first_batch_tokens // self.data.seq_len, full, n_rising)

    def positions_after(self, step: int) -> int:
        """Return the number of row positions of the first `step` updates."""
        return self.batch_growth.rows_before(step) * self.data.seq_len

    @property
    def eval_context(self) -> int:
        """Window of validation, with the default filled in."""
        return self.eval.context or self.data.seq_len

    @property
    def eval_policy(self) -> Policy:
        """How validation cuts documents into windows."""
        return Policy(context=self.eval_context, stride=self.eval.stride or self.eval_context)

    @functools.cached_property
    def eval_steps(self) -> frozenset[int]:
        """Steps after which the validation head is scored: 0, then evenly spaced to the last."""
        n_steps, n_evals = self.train.n_steps, min(self.eval.n_evals, self.train.n_steps)
        evenly = (round(n_steps * i / n_evals) for i in range(1, n_evals + 1))
        return frozenset({0, n_steps, *evenly})

    @property
    def checkpoint_every_steps(self) -> int:
        """Steps between checkpoints, with the default filled in."""
        return self.checkpoint.every_steps or -(-self.train.n_steps // 10)

    @functools.cached_property
    def checkpoint_steps(self) -> frozenset[int]:
        """Steps after which the state is saved, in addition to `checkpoint.keep_steps`."""
        n_steps, every = self.train.n_steps, self.checkpoint_every_steps
        return frozenset({*range(every, n_steps, every), n_steps})

    @functools.cached_property  # plans read it thousands of times
    def meaning_hash(self) -> str:
        """SHA-256 over the half of the config that can change a number."""
        return content_hash(meaning_of(self))

    @property
    def run_id(self) -> str:
        """First 12 hex digits of the meaning hash."""
        return self.meaning_hash[:12]
