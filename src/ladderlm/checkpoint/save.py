"""Write a checkpoint.

Owns the order of writing (tensors, state, manifest last) and a streaming safetensors writer.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ladderlm.checkpoint.layout import (
    AVERAGE_FILE,
    FORMAT_VERSION,
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    step_folder,
)
from ladderlm.files import check_free_space, publish_json, publish_stream, remove_tree, to_json

__all__ = ["optimizer_tensors", "save_checkpoint", "write_file", "write_safetensors"]

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


class _Hashing:
    """A binary stream that hashes and counts what is written to it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.digest, self.n_bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> None:
        self.stream.write(data)
        self.digest.update(data)
        self.n_bytes += len(data)

    @property
    def entry(self) -> dict[str, Any]:
        return {"n_bytes": self.n_bytes, "sha256": self.digest.hexdigest()}


def write_safetensors(
    stream: Any, tensors: Mapping[str, Tensor], read: Callable[[str], Tensor] | None = None
) -> None:
    """Write tensors in the safetensors format, one at a time, in the order of their names.

    Args:
        read: returns each tensor when it is written; `tensors` then needs only dtypes and shapes
            and may be on the meta device.

    Source: huggingface/safetensors, README, section Format: an 8-byte little-endian header
    length, a JSON header padded with spaces to 8 bytes, then the bytes of the tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        n_bytes = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + n_bytes],
        }
        offset += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)
    for name in sorted(tensors):
        tensor = tensors[name] if read is None else read(name)
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        stream.write(flat.view(torch.uint8).numpy().tobytes())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state by `<kind>.<parameter name>`, such as exp_avg.norm.weight."""
    return {
        f"{kind}.{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for kind, value in optimizer.state[parameter].items()
    }


def write_file(
    path: Path, tensors: Mapping[str, Tensor], read: Callable[[str], Tensor] | None = None
) -> dict[str, Any]:
    """Publish tensors (see `write_safetensors`) as a file and return its manifest entry."""
    with publish_stream(path) as stream:
        hashing = _Hashing(stream)
        write_safetensors(hashing, tensors, read)
    return hashing.entry


def save_checkpoint(
    checkpoints: Path,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: dict[str, Any],
    read: Callable[[str], Tensor] | None = None,
    average: Mapping[str, Tensor] | None = None,
    slices: Mapping[str, Any] | None = None,
) -> Path:
    """Publish one checkpoint and return its folder; the manifest, written last, completes it.

    Args:
        checkpoints: the run's folder of checkpoints.
        weights: float32 masters by Meta's names.
        optimizer: from `optimizer_tensors`.
        state: rest of the training state, as JSON; its "step" names the folder.
        read: returns a weight by its name; `weights` then needs only dtypes and shapes.
        average: average of the weights over the run, by the same names; None: the run keeps none.
        slices: manifest entries of the files with the optimizer's state that processes have
            already written into the folder; `optimizer` is then not used.

    Raises:
        LadderError: the disk is full; older checkpoints are untouched.
    """
    step: int = state["step"]
    parts = {MODEL_FILE: weights}
    if slices is None:
        parts[OPTIMIZER_FILE] = optimizer
    if average is not None:
        parts[AVERAGE_FILE] = average
    n_bytes = sum(t.numel() * t.element_size() for part in parts.values() for t in part.values())
    check_free_space(checkpoints, n_bytes + (1 << 20))
    folder = step_folder(checkpoints, step)
    if slices is None and folder.exists():
        remove_tree(folder)
    files: dict[str, Any] = dict(slices or {})
    for name, tensors in parts.items():
        files[name] = write_file(folder / name, tensors, read if name == MODEL_FILE else None)
    with publish_stream(folder / STATE_FILE) as stream:
        hashing = _Hashing(stream)
        hashing.write((to_json(state) + "\n").encode())
    files[STATE_FILE] = hashing.entry
    manifest = {
        "kind": "ladderlm-checkpoint",
        "format_version": FORMAT_VERSION,
        "step": step,
        "files": files,
    }
    publish_json(folder / MANIFEST_FILE, manifest)
    return folder
