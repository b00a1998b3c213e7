"""What two runs must have in common to be called equal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ladderlm.checkpoint.layout import list_checkpoints
from ladderlm.config import to_dict
from ladderlm.files import remove_tree
from ladderlm.training.run_config import RunConfig
from reference.hand_made import strip_timing

__all__ = ["BrokenError", "Observer", "break_at", "lines_of", "outcome", "rewind", "write_config"]

Observer = Callable[[dict[str, Any]], None]


class BrokenError(Exception):
    """Stands for a crash of the process."""


def lines_of(path: Path) -> list[Any]:
    """Read JSON lines without their `timing`."""
    return [strip_timing(json.loads(line)) for line in path.read_text().splitlines()]


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that must be equal, byte for byte, between equal runs."""
    last = list_checkpoints(folder / "checkpoints")[-1].folder
    summary = strip_timing(json.loads((folder / "summary.json").read_text()))
    return {
        "step": last.name,
        "model": {file.name: file.read_bytes() for file in last.glob("model*")},
        "optimizer": {file.name: file.read_bytes() for file in last.glob("optimizer*")},
        "metrics": lines_of(folder / "metrics.jsonl"),
        "samples": lines_of(folder / "samples.jsonl"),
        "summary": {k: v for k, v in summary.items() if k not in ("restarts", "reason")},
    }


def break_at(step: int, kind: str = "train") -> Observer:
    """Return an observer that raises when the row of a step is logged."""

    def observe(row: dict[str, Any]) -> None:
        if row["kind"] == kind and row["step"] == step:
            raise BrokenError(f"step {step}")

    return observe


def rewind(folder: Path, out: Path, step: int) -> Path:
    """Copy a run as it would be had it died after the checkpoint of `step`, log and all."""
    shutil.copytree(folder, out)
    for checkpoint in list_checkpoints(out / "checkpoints"):
        if checkpoint.step > step:
            remove_tree(checkpoint.folder)
    remove_tree(out / "evals")
    (out / "summary.json").unlink()
    return out


def write_config(path: Path, config: RunConfig) -> Path:
    """Write a config as a file for a child process."""
    path.write_text(json.dumps(to_dict(config)))
    return path
