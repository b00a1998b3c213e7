"""The run folder: its files and their readers.

Owns the layout of `RUN/`. Imports no torch, so that studies and reports can read runs.
"""

import json
from pathlib import Path
from typing import Any

from ladderlm.checkpoint.choose import ChosenCheckpoint, choose
from ladderlm.config import from_dict
from ladderlm.errors import CheckpointError
from ladderlm.files import read_json
from ladderlm.training.run_config import RunConfig

__all__ = ["RunDirectory"]


class RunDirectory:
    """Paths and contents of one run, whose folder may not exist yet."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.environment_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.samples_file = self.path / "samples.jsonl"
        self.log_file = self.path / "run.log"
        self.summary_file = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.evals = self.path / "evals"

    def config(self) -> RunConfig:
        """Read the resolved config.

        Raises:
            CheckpointError: the folder is not a run.
        """
        if not self.config_file.is_file():
            raise CheckpointError(
                f"{self.path} is not a run folder (no config.json)",
                fix="choose a folder written by `ladderlm train`; convert Meta's folder or a GGUF "
                "file with `ladderlm convert DIR --to native`",
            )
        found = read_json(self.config_file)
        if isinstance(found, dict) and {"architectures", "model_type"} & set(found):
            raise CheckpointError(
                f"{self.path} is a folder of transformers, not a run",
                fix=f"if it is a LLaMA, run ladderlm convert {self.path} --to native --out DIR",
            )
        return from_dict(RunConfig, found, str(self.config_file))

    def summary(self) -> dict[str, Any] | None:
        """Read the summary; None if the run has not written one yet."""
        return dict(read_json(self.summary_file)) if self.summary_file.is_file() else None

    @property
    def finished(self) -> bool:
        """Whether the summary contains the final evaluations."""
        return (self.summary() or {}).get("status") == "finished"

    def scores(self, split: str) -> dict[str, Any] | None:
        """Return the final evaluation of a finished run, of its average if it keeps one.

        Returns:
            None before the run is finished.
        """
        summary = self.summary() or {}
        if summary.get("status") != "finished":
            return None
        found: dict[str, Any] = summary["evals"][split]
        return dict(found.get("average", found["last"]))

    def choose(self, wanted: str | int | None = None) -> ChosenCheckpoint:
        """Return a verified checkpoint; see `checkpoint.choose.choose`."""
        self.config()  # raises if the folder is not a run
        best = (self.summary() or {}).get("best_step") if wanted == "best" else None
        return choose(self.checkpoints, wanted, best)

    def environment(self) -> dict[str, Any]:
        """Read versions and hardware; empty if there is no such file."""
        return dict(read_json(self.environment_file)) if self.environment_file.is_file() else {}

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read the rows of metrics.jsonl of one kind, "train" or "eval"; None: of both."""
        return [row for row in _read_lines(self.metrics_file) if kind in (None, row.get("kind"))]

    def samples(self) -> list[dict[str, Any]]:
        """Read the texts written during the run."""
        return _read_lines(self.samples_file)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for raw in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            row = json.loads(raw)
        except ValueError:
            continue  # empty, or incomplete after a kill
        if isinstance(row, dict):
            rows.append(row)
    return rows
