"""Texts that stand in train and in another split as well.

Owns the files of sorted text hashes, their comparison in bounded memory, and the refusal.
"""

from collections.abc import Iterable, Iterator
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
    """Publish sorted hashes as `.npy`; give its entry for the manifest and the count of repeats."""
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
    # numpy leaves room for the longest shape, so the header can be written again in place.
    header = {"descr": "<u8", "fortran_order": False, "shape": (n_hashes,)}
    np.lib.format.write_array_header_1_0(stream, header)


def count_common(of: Path, inside: Path) -> int:
    """Count the entries of one sorted hash file that also stand in another."""
    common = 0
    for wanted in _steps(of):
        where = _map(inside)
        at = int(np.searchsorted(where, wanted[0], "left"))
        end = int(np.searchsorted(where, wanted[-1], "right"))
        for start in range(at, end, _STEP):
            piece = _slice(inside, start, min(start + _STEP, end))
            place = np.minimum(np.searchsorted(piece, wanted), len(piece) - 1)
            common += int((piece[place] == wanted).sum())
            # Copies of one hash may continue in the next step; each entry is counted once.
            wanted = wanted[wanted > piece[-1]]
    return common


def _map(path: Path) -> NDArray[np.uint64]:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _slice(path: Path, start: int, stop: int) -> NDArray[np.uint64]:
    """Read hashes without keeping pages of a memory map."""
    offset = int(getattr(_map(path), "offset", 0))
    return np.fromfile(path, "<u8", stop - start, offset=offset + 8 * start)


def _steps(path: Path) -> Iterator[NDArray[np.uint64]]:
    n_hashes = len(_map(path))
    for start in range(0, n_hashes, _STEP):
        yield _slice(path, start, min(start + _STEP, n_hashes))


def count_overlap(folders: dict[str, Path], splits: dict[str, Any]) -> dict[str, int]:
    """Count documents of each other split whose text stands in train as well.

    `exact` compares bytes; `folded` sets aside the case of ASCII letters and all ASCII white space.

    Args:
        folders: where the files of each split lie.
        splits: their entries of the manifest.
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
    """Refuse documents of other splits that stand in train, unless allowed.

    Raises:
        DataError: says how many, exactly and with case and white space set aside.
    """
    for pair, count in overlap.items():
        name, kind = pair.removeprefix("train_").rsplit("_", 1)
        if not count or allowed:
            continue
        how = "" if kind == "exact" else ", but for case and white space"
        raise DataError(
            f"{count} documents of {name!r} stand in 'train' as well{how}",
            "a model is then scored on text that it was trained on",
            "take them out of the training text, or use --allow-overlap to record the count",
        )
