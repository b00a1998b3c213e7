"""What a report states of a run: what it was, what it cost, what came out.

Owns the facts of one run folder, with the curves and samples of the best one.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ladderlm.model.accounting import count_params
from ladderlm.run.directory import RunDirectory
from ladderlm.study.records import parse_record
from ladderlm.text import without_home
from ladderlm.training.run_config import RunConfig

__all__ = [
    "Curves",
    "Hardware",
    "LoggedLoss",
    "RunFacts",
    "RunScore",
    "Samples",
    "WrittenText",
    "read_curves",
    "read_run",
    "read_samples",
]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run was carried out on, with the versions of its software."""

    hardware: str | None = None
    device: str | None = None
    n_threads: int | None = None
    world_size: int = 1
    versions: Mapping[str, str | None]
    platform: str | None = None
    commit: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """A validation in full: of all documents, and by subset.

    Args:
        policy: context, stride and count of documents; None: not evaluated yet.
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
        folder: from the report's folder.
        bits_per_byte, loss, best_step, evaluation: of the best checkpoint.
        config: without folders, which differ between machines.
        roles: its places in the studies.
    """

    run_id: str
    folder: str
    status: str
    reason: str | None
    split: str
    bits_per_byte: float | None
    loss: float | None
    best_step: int | None
    last_bits_per_byte: float | None
    last_loss: float | None
    evaluation: RunScore
    n_params: Mapping[str, int]
    n_steps: int
    n_positions: int
    n_tokens: int
    flops: float
    flops_6nd: float
    restarts: int
    timing: Mapping[str, float | None]
    config: RunConfig
    machine: Hardware
    roles: tuple[str, ...] = ()

    @property
    def has_finite_scores(self) -> bool:
        """Whether the run is finished and all of its losses are numbers."""
        values = (self.loss, self.bits_per_byte, self.last_loss, self.last_bits_per_byte)
        return self.status == "finished" and all(
            isinstance(value, int | float) and math.isfinite(value) for value in values
        )


@dataclass(frozen=True, kw_only=True)
class LoggedLoss:
    """One row of metrics.jsonl; None: not there, or not a number."""

    step: int | None = None
    n_tokens: int | None = None
    flops: float | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationHead:
    """The documents that are scored during a run."""

    split: str
    context: int
    stride: int
    n_documents: int | None


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Training loss and validations of one run, as they were logged."""

    train: tuple[LoggedLoss, ...]
    validation: tuple[LoggedLoss, ...]
    head: ValidationHead | None


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    """A text that a run wrote after a prompt; "": after BOS alone."""

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
    """The texts written at the last checkpoint, and one of the first."""

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
    return RunFacts(
        run_id=config.run_id,
        folder=os.path.relpath(folder, home),
        status=summary.get("status", "not finished"),
        reason=without_home(str(reason)) if reason else None,
        split=split,
        bits_per_byte=best.get("bits_per_byte"),
        loss=best.get("loss"),
        best_step=best.get("step"),
        last_bits_per_byte=last.get("bits_per_byte"),
        last_loss=last.get("loss"),
        evaluation=parse_record(RunScore, best),
        n_params=summary.get("n_params") or predicted,
        n_steps=summary.get("n_steps", 0),
        n_positions=summary.get("n_positions", 0),
        n_tokens=summary.get("n_tokens", 0),
        flops=summary.get("flops", 0.0),
        flops_6nd=summary.get("flops_6nd", 0.0),
        restarts=summary.get("restarts", 0),
        timing=summary.get("timing", {}),
        config=replace(
            config,
            out=None,
            data=replace(config.data, path=None),
            eval=replace(config.eval, path=None),
        ),
        machine=_read_hardware(directory),
    )


def _read_hardware(directory: RunDirectory) -> Hardware:
    found = directory.environment()
    own = {"python": found.get("python"), "ladderlm": found.get("ladderlm")}
    known = {f.name: found[f.name] for f in fields(Hardware) if f.name in found}
    return Hardware(**known | {"versions": found.get("versions", {}) | own})


def read_curves(directory: RunDirectory) -> Curves:
    """Read the logged training loss and the validations of one run."""
    head = [
        row for row in directory.metrics("eval") if str(row.get("split")).startswith("val-head")
    ]
    return Curves(
        train=tuple(parse_record(LoggedLoss, row) for row in directory.metrics("train")),
        validation=tuple(parse_record(LoggedLoss, row) for row in head),
        head=parse_record(ValidationHead, head[0]["policy"] | {"split": head[0]["split"]})
        if head
        else None,
    )


def read_samples(directory: RunDirectory) -> Samples:
    """Read the texts written at the last checkpoint, and one of the first."""
    rows = [parse_record(WrittenText, row) for row in directory.samples()]
    steps = [row.step for row in rows]
    chosen = [row for row in rows if row.step == max(steps)]
    return Samples(
        step=max(steps, default=0),
        unconditional=tuple(row for row in chosen if not row.prompt),
        conditional=tuple(row for row in chosen if row.prompt),
        first=tuple(row for row in rows if row.step == min(steps))[:1],
    )
