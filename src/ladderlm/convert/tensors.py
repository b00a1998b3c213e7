"""Tensors in files: where each one is; reading and writing one at a time.

Owns `Stored`, a strict reader of safetensors headers (a foreign file is hostile until proved
otherwise) and a streaming writer. Reads no pickle (`pickles.py`) and knows no model.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ladderlm.errors import CheckpointError

__all__ = ["Shape", "Stored", "inside", "read_safetensors", "stream_safetensors"]

Shape = tuple[int, ...]
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# A header of 1,000 tensors takes 0.1 MB; one this long is made to exhaust memory.
_LONGEST_HEADER = 4 << 20
_UNSAFE = "a file that contradicts itself may be damaged, or made to mislead its reader"
_AGAIN = "get the file again from where it was published"


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies.

    Args:
        path: the file.
        offset: byte of its first element.
        dtype, shape: as stored.
        stride: in elements; None: contiguous.
    """

    path: Path
    offset: int
    dtype: torch.dtype
    shape: Shape
    stride: Shape | None = None

    def read(self) -> Tensor:
        """Read it into memory of its own.

        Raises:
            CheckpointError: the file is shorter than it was when its header was read.
        """
        n_elements = math.prod(self.shape)
        if self.stride is not None and n_elements:
            n_elements = 1 + sum(
                (n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)
            )
        if not n_elements:
            return torch.empty(self.shape, dtype=self.dtype)
        raw = bytearray(n_elements * self.dtype.itemsize)
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            if stream.readinto(raw) != len(raw):
                raise CheckpointError(f"{self.path} was cut short while it was read", "", _AGAIN)
        flat = torch.frombuffer(raw, dtype=self.dtype)
        if self.stride is None:
            return flat.view(self.shape)
        return flat.as_strided(self.shape, self.stride).contiguous()


def inside(folder: Path, name: Any) -> Path:
    """Return the path of a file that a foreign index names, if it is in the folder itself.

    A symbolic link may lead to another file of the folder, or into the `blobs` of the Hugging Face
    cache that the folder is a snapshot of; nowhere else.

    Raises:
        CheckpointError: a path that leaves the folder, an address, or no such file.
    """
    leaves = not isinstance(name, str) or Path(name).name != name or "\\" in name or "\0" in name
    if leaves or ":" in str(name):
        raise CheckpointError(
            f"{folder} names the file {name!r}",
            "a checkpoint holds plain files; a path could lead to any file of this machine",
            "do not use a folder that does this, or fix its index by hand",
        )
    path: Path = folder / name
    if path.is_symlink():
        cache = folder.resolve().parent.parent / "blobs"
        if path.resolve().parent not in (folder.resolve(), cache):
            raise CheckpointError(
                f"{path} is a symbolic link to {path.resolve()}",
                "it leads out of the folder",
                "replace the link by the file itself, if you trust it",
            )
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", "the checkpoint names it", _AGAIN)
    return path


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Read the header of a safetensors file and check that it describes the file exactly.

    The bytes of the tensors must follow each other without overlap or hole up to the end of the
    file, each as many as its shape and dtype need. Source: huggingface/safetensors, README, Format.

    Raises:
        CheckpointError: any contradiction; nothing has been allocated for it.
    """
    n_file = path.stat().st_size
    with open(path, "rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
        if n_file < 8 or n_header > min(n_file - 8, _LONGEST_HEADER):
            limit = f"the file has {n_file:,} bytes, and no honest header passes 4 MiB"
            raise CheckpointError(f"{path}: a header of {n_header:,} bytes", limit, _AGAIN)
        text = stream.read(n_header)
    try:
        header = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the header is not JSON ({error})", _UNSAFE, _AGAIN
        ) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is not a table", _UNSAFE, _AGAIN)
    header.pop("__metadata__", None)
    found, spans = {}, []
    for name, entry in header.items():
        dtype, shape, start, end = _entry(path, name, entry)
        found[name] = Stored(path, 8 + n_header + start, dtype, shape)
        spans.append((start, end, name))
    at = 0
    for start, end, name in sorted(spans):
        if start != at:
            what = "overlaps its neighbour" if start < at else f"lies behind a hole at byte {at}"
            raise CheckpointError(f"{path}: {name!r} {what}", _UNSAFE, _AGAIN)
        at = end
    if at != n_file - 8 - n_header:
        raise CheckpointError(
            f"{path}: its tensors end at byte {at:,} of {n_file - 8 - n_header:,}", _UNSAFE, _AGAIN
        )
    return found


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _entry(path: Path, name: str, entry: Any) -> tuple[torch.dtype, Shape, int, int]:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path}: {name!r} has no dtype, shape or place", _UNSAFE) from None
    numbers = [start, end, *(shape if isinstance(shape, list) else [None])]
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or len(numbers) > 10:
        raise CheckpointError(f"{path}: {name!r} has shape {str(shape)[:80]}", _UNSAFE, _AGAIN)
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(f"{path}: {name!r} has dtype {str(dtype)[:80]!r}", _UNSAFE, _AGAIN)
    n_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - start != n_bytes:
        raise CheckpointError(
            f"{path}: {name!r} takes {end - start:,} bytes, its shape needs {n_bytes:,}",
            _UNSAFE,
            _AGAIN,
        )
    return _DTYPES[dtype], tuple(shape), start, end


def stream_safetensors(
    stream: IO[bytes] | Any,
    layout: Mapping[str, tuple[torch.dtype, Shape]],
    read: Callable[[str], Tensor],
) -> None:
    """Write a safetensors file with one tensor in memory at a time.

    Args:
        stream: binary, for example of `files.publish_stream`.
        layout: dtype and shape of every tensor, in the order of writing.
        read: gives a tensor by its name, of that dtype and shape.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in layout.items():
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name, (dtype, shape) in layout.items():
        tensor = read(name)
        assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape), name
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        stream.write(flat.numpy().data)
