"""Places of the tensors in PyTorch's pickle files, found by a child process.

Owns the only `torch.load` of the package. A pickle can run code. So it is opened with
`weights_only`, by a PyTorch in which this is safe, in a child process with little memory and time
that cannot write files. The child returns names and places; the parent reads bytes and never
unpickles.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from ladderlm.convert.tensors import Stored
from ladderlm.errors import CheckpointError

__all__ = ["index_file", "index_pickles", "main"]

_SECONDS = 300
_MEMORY_BYTES = 512 << 20  # in addition to PyTorch itself and the file, which is mapped, not read
_SAFE_TORCH = (2, 10)  # weights_only of older ones could be tricked


def index_pickles(paths: list[Path]) -> list[dict[str, Stored]]:
    """Return the tensors of each file, by name.

    Raises:
        CheckpointError: a file holds something else than tensors, or the child reached a limit.
    """
    found = []
    words = [sys.executable, "-m", __name__, *map(str, paths)]
    try:
        child = subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False)
        lines = child.stdout.decode("utf-8", "replace").splitlines()
        died = f"the reading process ended with code {child.returncode}"
    except subprocess.TimeoutExpired:
        lines, died = [], f"it was not read within {_SECONDS} seconds"
    for i, path in enumerate(paths):
        answer: dict[str, Any] = json.loads(lines[i]) if i < len(lines) else {"error": died}
        if "error" in answer:
            raise CheckpointError(
                f"{path} cannot be read as tensors: {answer['error']}",
                "a pickle that holds anything else can run code when it is opened",
                "if you trust the file, load it yourself and save it as safetensors",
            )
        n_file, table = path.stat().st_size, {}
        for name, entry in answer["tensors"].items():
            if entry["end"] > n_file:
                raise CheckpointError(f"{path}: {name!r} ends past the end of the file")
            dtype, (shape, stride) = getattr(torch, entry["dtype"]), entry["strided"]
            table[name] = Stored(path, entry["offset"], dtype, tuple(shape), tuple(stride))
        found.append(table)
    return found


def main(paths: list[str]) -> int:
    """Write a line of JSON for each file, up to the first error; runs in the child."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    pages = Path("/proc/self/statm")  # Linux only; elsewhere there is no limit
    if pages.exists():
        baseline = int(pages.read_text("utf-8").split()[0]) * resource.getpagesize()
        largest = max(Path(path).stat().st_size for path in paths)
        ceiling = baseline + largest + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for path in paths:
        try:
            if version < _SAFE_TORCH:
                raise ValueError(f"PyTorch {torch.__version__} is older than 2.10")
            answer: dict[str, Any] = {"tensors": index_file(path)}
        except Exception as error:
            said = f"{type(error).__name__}: {error}".split("\n")
            answer = {"error": next(line for line in said if line.strip())[:300]}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        if "error" in answer:
            return 1
    return 0


def index_file(path: str) -> dict[str, Any]:
    """Map a file, unpickle the names, and return the places relative to the mapping."""
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            raise ValueError("it was not written by torch.save of version 1.6 or newer")
    maps: list[Any] = []
    from_file = torch.UntypedStorage.from_file

    def remember(*arguments: Any, **options: Any) -> Any:
        maps.append(from_file(*arguments, **options))
        return maps[-1]

    torch.UntypedStorage.from_file = remember  # type: ignore[assignment,method-assign]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    finally:
        torch.UntypedStorage.from_file = from_file  # type: ignore[method-assign]
    if not isinstance(state, dict) or len(maps) != 1:
        raise ValueError(f"it holds a {type(state).__name__}, not a table of tensors")
    begin = maps[0].data_ptr()
    found = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            if name == "rope.freqs":
                continue
            raise ValueError(f"{name!r} is not a plain tensor")
        span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        offset = tensor.data_ptr() - begin if tensor.numel() else 0
        found[name] = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "strided": (list(tensor.shape), list(tensor.stride())),
            "offset": offset,
            "end": offset + (span * tensor.element_size() if tensor.numel() else 0),
        }
        if offset < 0:
            raise ValueError(f"{name!r} is not in the file")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
