"""The run folder: names of its files and readers of them.

Owns the layout of `RUN/` (no torch), so that studies and reports can read runs that they did not
make.
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
    """Paths and contents of one run.

    Args:
        path: the folder; it need not exist yet.
    """

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
                "",
                "name a folder that `ladderlm train` has written; Meta's, or a GGUF file's, "
                "becomes one by `ladderlm convert DIR --to native`",
            )
        found = read_json(self.config_file)
        if isinstance(found, dict) and {"architectures", "model_type"} & set(found):
            raise CheckpointError(
                f"{self.path} is a folder of transformers, not a run",
                "its config.json names an architecture",
                f"ladderlm convert {self.path} --to native --out DIR, if it is a LLaMA",
            )
        return from_dict(RunConfig, found, str(self.config_file))

    def summary(self) -> dict[str, Any] | None:
        """Read the summary; None before the run has begun to write one."""
        if not self.summary_file.is_file():
            return None
        summary: dict[str, Any] = read_json(self.summary_file)
        return summary

    @property
    def finished(self) -> bool:
        """True once the final evaluations stand in the summary."""
        summary = self.summary()
        return summary is not None and summary.get("status") == "finished"

    def scores(self, split: str) -> dict[str, Any] | None:
        """Give the final evaluation that a finished run is judged by: of its average if it has one.

        None before the run is finished.
        """
        summary = self.summary()
        if summary is None or summary.get("status") != "finished":
            return None
        found: dict[str, Any] = summary["evals"][split]
        return dict(found.get("average", found["last"]))

    def choose(self, wanted: str | int | None = None) -> ChosenCheckpoint:
        """Return a verified checkpoint; see `checkpoint.choose.choose`."""
        self.config()  # refuses a folder that is no run
        best = (self.summary() or {}).get("best_step") if wanted == "best" else None
        return choose(self.checkpoints, wanted, best)

    def environment(self) -> dict[str, Any]:
        """Read versions and hardware; empty if there is no such file."""
        return dict(read_json(self.environment_file)) if self.environment_file.is_file() else {}

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read the rows of metrics.jsonl; a torn last line is passed over.

        Args:
            kind: "train" or "eval"; None: both.
        """
        return [row for row in _read_lines(self.metrics_file) if kind in (None, row.get("kind"))]

    def samples(self) -> list[dict[str, Any]]:
        """Read the texts written during the run."""
        return _read_lines(self.samples_file)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for raw in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(raw)
        except ValueError:
            continue  # empty, or torn by a kill
        if isinstance(row, dict):
            rows.append(row)
    return rows
