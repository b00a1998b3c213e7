"""What a checkpoint folder holds, and which of several to trust.

Owns names, the manifest and its verification, rotation. Usable without torch and without a
trainer. A folder counts only with a manifest, which is written last.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Checkpoint:
    """One complete (not yet verified) checkpoint on disk."""

    folder: Path
    step: int


def step_folder(checkpoints: Path, step: int) -> Path:
    """Give the folder of a step's checkpoint."""
    return checkpoints / f"step-{step:08d}"


def list_checkpoints(checkpoints: Path) -> list[Checkpoint]:
    """List the folders that have a manifest, by step, newest last.

    Symbolic links are not followed: a link may lead out of the run.
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
    """Delete step folders without a manifest, left by a killed save; return their names."""
    removed = []
    if checkpoints.is_dir():
        complete = {checkpoint.folder for checkpoint in list_checkpoints(checkpoints)}
        for folder in sorted(checkpoints.iterdir()):
            if folder not in complete and _STEP_FOLDER.fullmatch(folder.name):
                remove_tree(folder)
                removed.append(folder.name)
    return removed


def verify_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Check every file against the manifest and give the manifest.

    Raises:
        CheckpointError: a file is missing, has another size or hash, or another format version.
    """
    fix = "the run falls back to an older checkpoint if it has one; or start it anew elsewhere"
    try:
        manifest: dict[str, Any] = read_json(checkpoint.folder / MANIFEST_FILE)
    except DataError as error:
        raise CheckpointError(error.what, error.why, fix) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{checkpoint.folder} has checkpoint format {version!r}, this ladderlm reads "
            f"{FORMAT_VERSION}",
            "the meaning of its files may differ",
            "use the ladderlm version that wrote it",
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or {MODEL_FILE, STATE_FILE} - files.keys():
        raise CheckpointError(
            f"{checkpoint.folder / MANIFEST_FILE} does not list the model and its state",
            "the manifest is damaged",
            fix,
        )
    for name, entry in files.items():
        _verify_file(checkpoint.folder, str(name), entry, fix)
    return manifest


def _verify_file(folder: Path, name: str, entry: Any, fix: str) -> None:
    path = folder / name
    if Path(name).name != name or path.is_symlink():
        raise CheckpointError(f"{folder} lists {name!r}", "a checkpoint holds plain files", fix)
    if not isinstance(entry, dict) or not path.is_file():
        raise CheckpointError(f"{path} is missing", "the manifest lists it", fix)
    if path.stat().st_size != entry.get("n_bytes") or sha256_file(path) != entry.get("sha256"):
        raise CheckpointError(
            f"{path} is damaged: its size or SHA-256 is not the manifest's",
            "training on from changed weights would be silently wrong",
            fix,
        )


def rotate(checkpoints: Path, keep: int, pinned: set[int]) -> None:
    """Delete all but the newest `keep` checkpoints and the pinned steps."""
    found = list_checkpoints(checkpoints)
    for checkpoint in found[: max(len(found) - keep, 0)]:
        if checkpoint.step not in pinned:
            remove_tree(checkpoint.folder)
