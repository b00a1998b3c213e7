"""Tensors in files, read and written one at a time.

Owns `Stored`, a strict reader of safetensors headers (any foreign file may be hostile) and a
streaming writer. Reads no pickles (`pickles.py`) and knows no model.
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
# A header of 1,000 tensors takes 0.1 MB. A longer one than this is made to exhaust memory.
_LONGEST_HEADER = 4 << 20
_UNSAFE = "a file that contradicts itself may be damaged, or made to mislead its reader"
_AGAIN = "download the file again from where it was published"


@dataclass(frozen=True)
class Stored:
    """The place of one tensor in a file.

    Args:
        offset: byte of its first element.
        stride: in elements; None: contiguous.
    """

    path: Path
    offset: int
    dtype: torch.dtype
    shape: Shape
    stride: Shape | None = None

    def read(self) -> Tensor:
        """Read the tensor. A file shorter than its header said is a `CheckpointError`."""
        n_elements = math.prod(self.shape)
        if self.stride is not None and n_elements:
            steps = zip(self.shape, self.stride, strict=True)
            n_elements = 1 + sum((n - 1) * step for n, step in steps)
        if not n_elements:
            return torch.empty(self.shape, dtype=self.dtype)
        raw = bytearray(n_elements * self.dtype.itemsize)
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            if stream.readinto(raw) != len(raw):
                raise CheckpointError(f"{self.path} was cut short while it was read", fix=_AGAIN)
        flat = torch.frombuffer(raw, dtype=self.dtype)
        if self.stride is None:
            return flat.view(self.shape)
        return flat.as_strided(self.shape, self.stride).contiguous()


def inside(folder: Path, name: Any) -> Path:
    """Return the path of a file that a foreign index names, if it is in the folder itself.

    A symbolic link may lead to another file of the folder, or into the `blobs` of the Hugging Face
    cache that the folder is a snapshot of, and nowhere else.

    Raises:
        CheckpointError: the name is a path or an address, or there is no such file.
    """
    if not isinstance(name, str) or Path(name).name != name or set(name) & set("\\\0:"):
        raise CheckpointError(
            f"{folder} must name plain files, it names {name!r}",
            "a path could lead to any file of this machine",
            "do not use a folder that does this, or fix its index by hand",
        )
    path: Path = folder / name
    if path.is_symlink():
        cache = folder.resolve().parent.parent / "blobs"
        if path.resolve().parent not in (folder.resolve(), cache):
            raise CheckpointError(
                f"{path} leads out of the folder, to {path.resolve()}",
                fix="replace the link by the file itself, if you trust it",
            )
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", fix=_AGAIN)
    return path


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Read the header of a safetensors file and check that it describes the file exactly.

    Each tensor must have the number of bytes that its shape and dtype need, and the tensors must
    fill the file without overlaps or holes. Source: huggingface/safetensors, README, Format.

    Raises:
        CheckpointError: header and file do not agree; nothing has been allocated.
    """

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: {what}", _UNSAFE, _AGAIN)

    n_file = path.stat().st_size
    with open(path, "rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
        if n_file < 8 or n_header > min(n_file - 8, _LONGEST_HEADER):
            limit = f"at most {_LONGEST_HEADER:,} and within the {n_file:,} bytes of the file"
            raise refuse(f"the bytes of the header must be {limit}, got {n_header:,}")
        text = stream.read(n_header)
    try:
        header = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise refuse(f"the header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise refuse("the header is not a table")
    header.pop("__metadata__", None)
    found, spans = {}, []
    for name, entry in header.items():
        try:
            dtype, shape, start, end = _entry(entry)
        except ValueError as error:
            raise refuse(f"{name!r} {error}") from None
        found[name] = Stored(path, 8 + n_header + start, dtype, shape)
        spans.append((start, end, name))
    at = 0
    for start, end, name in sorted(spans):
        if start != at:
            place = "overlaps its neighbour" if start < at else f"follows a hole at byte {at}"
            raise refuse(f"{name!r} {place}")
        at = end
    if at != n_file - 8 - n_header:
        raise refuse(f"its tensors end at byte {at:,} of {n_file - 8 - n_header:,}")
    return found


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _entry(entry: Any) -> tuple[torch.dtype, Shape, int, int]:
    """Return dtype, shape, start and end of a header's entry; a `ValueError` has no subject."""
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ValueError("has no dtype, shape or place") from None
    numbers = [start, end, *(shape if isinstance(shape, list) else [None])]
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or len(numbers) > 10:
        raise ValueError(f"has shape {str(shape)[:80]}")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"has dtype {str(dtype)[:80]!r}")
    n_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - start != n_bytes:
        raise ValueError(f"takes {end - start:,} bytes, its shape needs {n_bytes:,}")
    return _DTYPES[dtype], tuple(shape), start, end


def stream_safetensors(
    stream: IO[bytes] | Any,
    layout: Mapping[str, tuple[torch.dtype, Shape]],
    read: Callable[[str], Tensor],
) -> None:
    """Write a safetensors file with one tensor in memory at a time.

    Args:
        stream: a binary stream, for example of `files.publish_stream`.
        layout: dtype and shape of every tensor, in the order of writing.
        read: returns a tensor by its name, with that dtype and shape.
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
