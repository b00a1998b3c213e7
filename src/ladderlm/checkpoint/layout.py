"""Files of a checkpoint folder, and which folders are complete.

Owns their names, the manifest and its verification, and rotation. Imports no torch. A folder
without a manifest, which is written last, is not a checkpoint.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ladderlm.errors import CheckpointError, DataError
from ladderlm.files import read_json, remove_tree, sha256_file

__all__ = [
    "AVERAGE_FILE",
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "OPTIMIZER_FILE",
    "STATE_FILE",
    "Checkpoint",
    "list_checkpoints",
    "newest_good",
    "remove_unfinished",
    "rotate",
    "step_folder",
    "verify_checkpoint",
]

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
AVERAGE_FILE = "average.safetensors"  # of runs that keep an average of the weights
STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
_STEP_FOLDER = re.compile(r"step-(\d{8,})")
_RESTORE = "restore the folder from a copy, or choose another checkpoint of the run"
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Checkpoint:
    """One complete (not yet verified) checkpoint on disk."""

    folder: Path
    step: int


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return checkpoints / f"step-{step:08d}"


def list_checkpoints(checkpoints: Path) -> list[Checkpoint]:
    """List the complete checkpoints by step, newest last.

    Symbolic links are skipped, because they may lead out of the run.
    """
    found = []
    if checkpoints.is_dir():
        for folder in checkpoints.iterdir():
            match = _STEP_FOLDER.fullmatch(folder.name)
            real = match and not folder.is_symlink() and (folder / MANIFEST_FILE).is_file()
            if match and real:
                found.append(Checkpoint(folder, int(match[1])))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def remove_unfinished(checkpoints: Path) -> list[str]:
    """Delete step folders without a manifest, left by a killed save, and return their names."""
    if not checkpoints.is_dir():
        return []
    complete = {checkpoint.folder for checkpoint in list_checkpoints(checkpoints)}
    folders = [f for f in checkpoints.iterdir() if _STEP_FOLDER.fullmatch(f.name)]
    unfinished = sorted(set(folders) - complete)
    for folder in unfinished:
        remove_tree(folder)
    return [folder.name for folder in unfinished]


def newest_good(checkpoints: Path, read: Callable[[Checkpoint], _T]) -> _T | None:
    """Read the newest checkpoint that is not damaged; None if the run has no checkpoint.

    Args:
        read: raises CheckpointError for a damaged checkpoint, which is logged and skipped.

    Raises:
        CheckpointError: all checkpoints are damaged.
    """
    found = list_checkpoints(checkpoints)
    for checkpoint in reversed(found):
        try:
            return read(checkpoint)
        except CheckpointError as error:
            _log.warning("skipping a damaged checkpoint: %s", error.what)
    if found:
        raise CheckpointError(
            f"all {len(found)} checkpoints in {checkpoints} are damaged",
            fix="restore the folder from a copy, or train again with --resume never",
        )
    return None


def verify_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Check every file against the manifest and return the manifest.

    Raises:
        CheckpointError: a file is missing or damaged, or the format version is another one.
    """
    try:
        manifest: dict[str, Any] = read_json(checkpoint.folder / MANIFEST_FILE)
    except DataError as error:
        raise CheckpointError(error.what, error.why, _RESTORE) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{checkpoint.folder} has checkpoint format {version!r}, this ladderlm reads "
            f"{FORMAT_VERSION}",
            fix="use the ladderlm version that wrote it",
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or {MODEL_FILE, STATE_FILE} - files.keys():
        message = f"{checkpoint.folder / MANIFEST_FILE} does not list the model and its state"
        raise CheckpointError(message, fix=_RESTORE)
    for name, entry in files.items():
        _verify_file(checkpoint.folder, str(name), entry)
    return manifest


def _verify_file(folder: Path, name: str, entry: Any) -> None:
    path = folder / name
    if Path(name).name != name or path.is_symlink():
        message = f"{folder} must list plain files, got {name!r}"
    elif not isinstance(entry, dict) or not path.is_file():
        message = f"{path} is missing, but its manifest lists it"
    elif path.stat().st_size != entry.get("n_bytes") or sha256_file(path) != entry.get("sha256"):
        message = f"{path} is damaged: its size or SHA-256 is not the manifest's"
    else:
        return
    raise CheckpointError(message, fix=_RESTORE)


def rotate(checkpoints: Path, keep: int, pinned: set[int]) -> None:
    """Delete all but the newest `keep` checkpoints and the pinned steps."""
    found = list_checkpoints(checkpoints)
    for checkpoint in found[: max(len(found) - keep, 0)]:
        if checkpoint.step not in pinned:
            remove_tree(checkpoint.folder)
