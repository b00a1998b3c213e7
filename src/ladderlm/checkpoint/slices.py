"""Optimizer state in several files, one for each process that wrote it.

Owns the names of these files, their writing, and the reader that joins the parts, so that a run
can resume with another number of processes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ladderlm.checkpoint.save import write_file
from ladderlm.errors import CheckpointError

__all__ = ["SlicedTensors", "slice_files", "write_slice"]

_PREFIX = "optimizer-"


def write_slice(
    folder: Path, index: int, n_slices: int, parts: Mapping[str, tuple[Tensor, int | None]]
) -> dict[str, Any]:
    """Write the state that one process keeps and return the file's manifest entry by its name.

    Args:
        folder: folder of the checkpoint.
        index: rank of the process.
        parts: name -> (tensor, its first row in the whole tensor; None: it is the whole).
    """
    name = f"{_PREFIX}{index + 1:05d}-of-{n_slices:05d}.safetensors"
    entry = write_file(folder / name, {key: tensor for key, (tensor, _) in parts.items()})
    rows = {key: begin for key, (_, begin) in parts.items() if begin is not None}
    return {name: entry | {"first_rows": rows}}


def slice_files(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the slices among the files of a manifest; empty if the state is in one file."""
    files = manifest.get("files", {})
    return {name: entry for name, entry in files.items() if name.startswith(_PREFIX)}


class SlicedTensors(Mapping[str, Tensor]):
    """Whole tensors joined from slices, each read on access.

    Args:
        folder: folder of a verified checkpoint.
        files: from `slice_files`.

    Raises:
        CheckpointError: a slice is missing, or is not a readable safetensors file.
    """

    def __init__(self, folder: Path, files: Mapping[str, Any]) -> None:
        self._places: dict[str, list[tuple[int, Path]]] = {}
        n_slices = int(next(iter(files)).split("-of-")[1].split(".")[0])
        if len(files) != n_slices:
            raise CheckpointError(
                f"{folder} holds {len(files)} of {n_slices} slices of the optimizer's state",
                fix="restore the folder from a copy",
            )
        for name, entry in files.items():
            path, rows = folder / name, entry.get("first_rows", {})
            try:
                with safe_open(path, framework="pt") as stored:
                    keys = list(stored.keys())
            except (SafetensorError, OSError) as error:
                message = f"{path} is not a readable safetensors file: {error}"
                raise CheckpointError(message) from error
            for key in keys:
                self._places.setdefault(key, []).append((int(rows.get(key, 0)), path))

    def __getitem__(self, name: str) -> Tensor:
        parts = []
        for _, path in sorted(self._places[name]):
            with safe_open(path, framework="pt") as stored:
                parts.append(stored.get_tensor(name))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
