"""The facts of one run folder: its config, its cost, its scores, its curves and its samples.

Owns `RunFacts`, `Curves` and `Samples`, and how they are read.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ladderlm.config import replace_all
from ladderlm.model.accounting import count_params
from ladderlm.run.directory import RunDirectory
from ladderlm.study.records import parse_record
from ladderlm.text import without_home
from ladderlm.training.run_config import RunConfig

__all__ = ["Curves", "LoggedLoss", "RunFacts", "Samples", "read_curves", "read_run", "read_samples"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The machine of a run, and the versions of its software."""

    hardware: str | None = None
    device: str | None = None
    n_threads: int | None = None
    world_size: int = 1
    versions: Mapping[str, str | None]
    platform: str | None = None
    commit: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """The evaluation of a run on all validation documents, and by subset.

    Args:
        policy: context, stride and number of documents; None: not evaluated yet.
        subsets: bits per byte, loss and counts of each.
    """

    n_documents: int | None = None
    n_bytes: int | None = None
    n_tokens: int | None = None
    split_documents: int | None = None
    policy: Mapping[str, int] | None = None
    subsets: Mapping[str, Mapping[str, Any]] | None = None
    macro_bits_per_byte: float | None = None
    bits_per_byte_95: tuple[float | None, ...] | None = None
    perplexity: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run.

    Args:
        folder: relative to the report's folder.
        bits_per_byte, loss, best_step, evaluation: of the best checkpoint.
        config: without folders, which differ between machines.
        roles: its arm, rung and seed in each study.
    """

    run_id: str
    folder: str
    status: str = "not finished"
    reason: str | None
    split: str
    bits_per_byte: float | None
    loss: float | None
    best_step: int | None
    last_bits_per_byte: float | None
    last_loss: float | None
    evaluation: RunScore
    n_params: Mapping[str, int]
    n_steps: int = 0
    n_positions: int = 0
    n_tokens: int = 0
    flops: float = 0.0
    flops_6nd: float = 0.0
    restarts: int = 0
    timing: Mapping[str, float | None] = field(default_factory=dict)
    config: RunConfig
    machine: Hardware
    roles: tuple[str, ...] = ()

    @property
    def has_finite_scores(self) -> bool:
        """Whether the run is finished and all of its losses are numbers."""
        scores = (self.loss, self.bits_per_byte, self.last_loss, self.last_bits_per_byte)
        finite = (isinstance(x, int | float) and math.isfinite(x) for x in scores)
        return self.status == "finished" and all(finite)


@dataclass(frozen=True, kw_only=True)
class LoggedLoss:
    """One row of metrics.jsonl; None: missing, or not a number."""

    step: int | None = None
    n_tokens: int | None = None
    flops: float | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The training losses and validations that a run logged.

    Args:
        head: split, context, stride and number of documents of the validations.
    """

    train: tuple[LoggedLoss, ...]
    validation: tuple[LoggedLoss, ...]
    head: Mapping[str, str | int | None] | None


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    """A text that a run generated after a prompt, which is "" for BOS alone."""

    step: int
    index: int
    prompt: str
    text: str
    stopped: bool
    temperature: float
    top_p: float | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The texts of the last checkpoint, and one of the first checkpoint."""

    step: int
    unconditional: tuple[WrittenText, ...]
    conditional: tuple[WrittenText, ...]
    first: tuple[WrittenText, ...]


def read_run(folder: Path, home: Path) -> RunFacts:
    """Read one run; `home` is the folder of the report."""
    directory = RunDirectory(folder)
    config, summary = directory.config(), directory.summary() or {}
    split = config.eval.split
    final = summary.get("evals", {}).get(split, {})
    best, last, reason = final.get("best", {}), final.get("last", {}), summary.get("reason")
    counts = count_params(config.model)
    predicted = {**vars(counts), "total": counts.total, "n_matmul": counts.n_matmul}
    found = {
        "run_id": config.run_id,
        "folder": os.path.relpath(folder, home),
        "reason": without_home(str(reason)) if reason else None,
        "split": split,
        "bits_per_byte": best.get("bits_per_byte"),
        "loss": best.get("loss"),
        "best_step": best.get("step"),
        "last_bits_per_byte": last.get("bits_per_byte"),
        "last_loss": last.get("loss"),
        "evaluation": parse_record(RunScore, best),
        "n_params": summary.get("n_params") or predicted,
        "config": replace_all(config, {"out": None, "data.path": None, "eval.path": None}),
        "machine": _read_hardware(directory),
    }
    return RunFacts(**{**_fields_of(RunFacts, summary), **found})


def _fields_of(kind: type, values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {f.name: values[f.name] for f in fields(kind) if f.name in values}


def _read_hardware(directory: RunDirectory) -> Hardware:
    found = directory.environment()
    own = {"python": found.get("python"), "ladderlm": found.get("ladderlm")}
    versions = found.get("versions", {}) | own
    return Hardware(**{**_fields_of(Hardware, found), "versions": versions})


def read_curves(directory: RunDirectory) -> Curves:
    """Read the logged training losses and validations of one run."""
    evals = directory.metrics("eval")
    head = [row for row in evals if str(row.get("split")).startswith("val-head")]
    train, validation = (
        tuple(parse_record(LoggedLoss, row) for row in rows)
        for rows in (directory.metrics("train"), head)
    )
    policy = {"split": head[0]["split"], **head[0]["policy"]} if head else None
    return Curves(train=train, validation=validation, head=policy)


def read_samples(directory: RunDirectory) -> Samples:
    """Read the texts of the last checkpoint, and one of the first checkpoint."""
    rows = [parse_record(WrittenText, row) for row in directory.samples()]
    steps = [row.step for row in rows]
    last = [row for row in rows if row.step == max(steps)]
    return Samples(
        step=max(steps, default=0),
        unconditional=tuple(row for row in last if not row.prompt),
        conditional=tuple(row for row in last if row.prompt),
        first=tuple(row for row in rows if row.step == min(steps))[:1],
    )
