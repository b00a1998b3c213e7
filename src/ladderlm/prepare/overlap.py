"""Texts that are in train and in another split too.

Owns the files of sorted text hashes, their comparison in bounded memory, and the refusal.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.files import publish_stream, sha256_file

__all__ = ["KINDS", "check_overlap", "count_common", "count_overlap", "write_hashes"]

KINDS = ("exact", "folded")
_STEP = 1 << 20  # hashes held at a time


def write_hashes(path: Path, arrays: Iterable[NDArray[np.uint64]]) -> tuple[dict[str, Any], int]:
    """Publish sorted hashes as `.npy`; return its manifest entry and the number of repeats."""
    n_hashes = n_repeats = 0
    with publish_stream(path) as stream:
        _write_hash_header(stream, 0)
        for keys in arrays:
            stream.write(keys.astype("<u8").tobytes())
            n_hashes += len(keys)
            n_repeats += int((keys[1:] == keys[:-1]).sum())
        stream.seek(0)
        _write_hash_header(stream, n_hashes)
    entry = {"file": path.name, "n_bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return entry, n_repeats


def _write_hash_header(stream: Any, n_hashes: int) -> None:
    # numpy reserves space for the longest shape, so the header can be rewritten in place.
    header = {"descr": "<u8", "fortran_order": False, "shape": (n_hashes,)}
    np.lib.format.write_array_header_1_0(stream, header)


def count_common(of: Path, inside: Path) -> int:
    """Count the entries of one sorted hash file that are in another too."""
    common = 0
    for first in range(0, len(_map(of)), _STEP):
        wanted = _slice(of, first, first + _STEP)
        where = _map(inside)
        at = int(np.searchsorted(where, wanted[0], "left"))
        end = int(np.searchsorted(where, wanted[-1], "right"))
        for start in range(at, end, _STEP):
            piece = _slice(inside, start, min(start + _STEP, end))
            place = np.minimum(np.searchsorted(piece, wanted), len(piece) - 1)
            common += int((piece[place] == wanted).sum())
            # Copies of one hash may continue in the next step: count each entry once.
            wanted = wanted[wanted > piece[-1]]
    return common


def _map(path: Path) -> NDArray[np.uint64]:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _slice(path: Path, start: int, stop: int) -> NDArray[np.uint64]:
    """Read hashes up to `stop` or the end, without the pages of a memory map."""
    offset = int(getattr(_map(path), "offset", 0))
    return np.fromfile(path, "<u8", stop - start, offset=offset + 8 * start)


def count_overlap(folders: dict[str, Path], splits: dict[str, Any]) -> dict[str, int]:
    """Count documents of each other split whose text is in train too.

    `exact` compares bytes; `folded` ignores the case of ASCII letters and all ASCII white space.

    Args:
        folders: of the files of each split.
        splits: entries of the manifest.
    """
    if "train" not in splits:
        return {}

    def path(name: str, kind: str) -> Path:
        return folders[name] / str(splits[name]["text_hashes"][kind]["file"])

    return {
        f"train_{name}_{kind}": count_common(path(name, kind), path("train", kind))
        for name in sorted(set(splits) - {"train"})
        for kind in KINDS
    }


def check_overlap(overlap: dict[str, int], allowed: bool) -> None:
    """Refuse documents of other splits that are in train too, unless allowed.

    Raises:
        DataError: names their number, compared exactly or without case and white space.
    """
    for pair, count in overlap.items():
        name, kind = pair.removeprefix("train_").rsplit("_", 1)
        if count and not allowed:
            how = "" if kind == "exact" else ", except for case and white space"
            raise DataError(
                f"{count} documents of {name!r} are in 'train' too{how}",
                "a model would be evaluated on text that it was trained on",
                "remove them from the training text, or use --allow-overlap to record the count",
            )
