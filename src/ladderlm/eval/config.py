"""What is measured, on which documents, with which context.

Owns `EvalConfig` (validation of a run), `EvaluationRequest` (one evaluation) and `Policy` (how
documents are cut into windows).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ladderlm.changes import MetaChange
from ladderlm.config import execution_field, require
from ladderlm.errors import ConfigError

__all__ = ["EVAL_CHANGES", "EvalConfig", "EvaluationRequest", "Packing", "Policy"]

Packing = Literal["rows", "packed"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a document longer than the context is scored: every token exactly once.

    Args:
        context: tokens a window may hold.
        stride: tokens scored per window after the first; context - stride tokens are re-read as
            context. stride == context: no overlap.
        n_documents: the first this many of the split; None: all.
    """

    context: int
    stride: int
    n_documents: int | None = None

    def __post_init__(self) -> None:
        if self.context < 2:
            raise ConfigError(f"context = {self.context}", "a window holds 2 tokens or more")
        if not 1 <= self.stride <= self.context:
            raise ConfigError(
                f"stride = {self.stride}", f"it lies between 1 and the context {self.context}"
            )
        if self.n_documents is not None and self.n_documents < 1:
            raise ConfigError(f"n_documents = {self.n_documents}", "it is at least 1")

    @property
    def name(self) -> str:
        """A word for file names: ctx256-str256-all or ctx256-str128-first10000."""
        which = "all" if self.n_documents is None else f"first{self.n_documents}"
        return f"ctx{self.context}-str{self.stride}-{which}"

    @property
    def words(self) -> str:
        """What a reader must know to compare two numbers, in one line."""
        n_again = self.context - self.stride
        again = f"each after the first re-reads {n_again} tokens" if n_again else "no overlap"
        return (
            f"context {self.context}, stride {self.stride}: windows of up to {self.context} tokens "
            f"of one document, {again}; every token is scored once"
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Validation during a run and at its end."""

    path: str | None = execution_field(None)
    """Folder of the prepared data to validate on. Default: the training data's folder."""
    split: str = "val"
    """Name of the split to score."""
    fingerprint: str | None = None
    """Hash of the split's tokens. Default: taken from the data."""
    n_documents: int = 10_000
    """Number of documents scored at the end of the run, from the first."""
    n_evals: int = 20
    """Number of validations during the run, evenly spaced, after the one before the first
    update."""
    head_tokens: int | None = None
    """Tokens of the first documents that are scored during the run. Default: by `time_share`."""
    time_share: float = 0.04
    """Fraction of the run's FLOPs that validation may take, by estimate."""
    context: int | None = None
    """Tokens that a window may hold. Default: `data.seq_len`."""
    stride: int | None = None
    """Tokens scored by each window after the first. Default: the context, so windows do not
    overlap."""
    n_samples: int = execution_field(2)
    """Number of texts generated at each checkpoint without a prompt. 0: none."""
    sample_tokens: int = execution_field(64)
    """Length of a generated text at most, in tokens."""
    sample_prompts: tuple[str, ...] = execution_field(())
    """Prompts that are continued at each checkpoint, in addition to the texts without a prompt."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_documents < 2**40:
            raise ConfigError(f"eval.n_documents = {self.n_documents}", "it is at least 1")
        if not 0 <= self.n_evals < 2**31:
            raise ConfigError(f"eval.n_evals = {self.n_evals}", "it is not negative")
        if self.head_tokens is not None and self.head_tokens < 1:
            raise ConfigError(f"eval.head_tokens = {self.head_tokens}", "it is at least 1")
        for name, value in (("context", self.context), ("stride", self.stride)):
            if value is not None and not 1 <= value < 2**31:
                raise ConfigError(f"eval.{name} = {value}", "it is at least 1 and below 2^31")
        if not 0 < self.time_share <= 1:
            raise ConfigError(f"eval.time_share = {self.time_share}", "it lies in (0, 1]")
        if self.n_samples < 0 or self.sample_tokens < 1:
            raise ConfigError(
                f"eval.n_samples = {self.n_samples}, eval.sample_tokens = {self.sample_tokens}",
                "the first is not negative, the second at least 1",
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to score, and how."""

    data: Sequence[Path | str] = ()
    """Prepared data, or corpus files such as val.jsonl.zst. May be given several times, for runs
    with different tokenizers; Hugging Face models use the first. Default: the data of the run."""
    split: str = EvalConfig.split
    """Name of the split to score."""
    max_documents: int = EvalConfig.n_documents
    """Number of documents to score, from the first."""
    context: int | None = None
    """Tokens that a window may hold. Default: as in the run's validation; for Hugging Face models
    their limit, at most 2048."""
    stride: int | None = None
    """Tokens scored by each window after the first. Default: the context, so windows do not
    overlap."""
    checkpoint: str | int | None = None
    """Which checkpoint of a run, see `checkpoint.choose.choose`."""
    fresh: bool = False
    """Score again even if the result is stored."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, or one GPU such as cuda:1."""
    batch_tokens: int = 8192
    """Tokens of one forward pass. The results do not depend on it."""
    packing: Packing = "rows"
    """How windows are put into rows. rows: one window per row. packed: several short ones per row.
    The results do not depend on it."""

    def __post_init__(self) -> None:
        for name in ("max_documents", "batch_tokens"):
            option, value = f"--{name.replace('_', '-')}", getattr(self, name)
            fix = f"set {option} to 1 or more, or leave it out"
            require(option, value, value >= 1, "be at least 1", fix)


EVAL_CHANGES = (
    MetaChange(
        "Evaluation",
        "none",
        "bits per byte over whole documents, every byte scored once, per subset, with intervals",
        "eval/",
    ),
)
