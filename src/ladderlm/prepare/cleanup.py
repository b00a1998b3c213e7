"""Files of a data folder that its manifest does not name.

Owns the names of versions of a split, and the removal of files of killed or replaced calls.
"""

import contextlib
import fcntl
import re
from pathlib import Path
from typing import Any

from ladderlm.data.shards import files_of_split
from ladderlm.files import remove_tree

__all__ = ["STAGING", "free_prefix", "remove_leftovers", "remove_temporary"]

STAGING = ".preparing"
_OWN_FILE = re.compile(
    r"([A-Za-z_][A-Za-z0-9_]*(?:-v\d+)?)-(?:\d{5,}\.bin|documents\.npy|texts-(?:exact|folded)\.npy)"
)


def _own_files(out: Path) -> dict[str, list[Path]]:
    """Return the files of splits in a folder, by the prefix of their version."""
    found: dict[str, list[Path]] = {}
    for path in sorted(out.iterdir()):
        if match := _OWN_FILE.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return found


def free_prefix(out: Path, name: str) -> str:
    """Return a name for a version of a split that no file has yet: `train`, `train-v2` ..."""
    taken = _own_files(out)
    names = [name, *(f"{name}-v{i}" for i in range(2, len(taken) + 3))]
    return next(prefix for prefix in names if prefix not in taken)


def remove_temporary(out: Path) -> None:
    """Delete unfinished files of a killed call. The caller holds the folder's lock."""
    for folder in (out, out / "tokenizer"):
        for path in folder.glob(".tmp-*"):
            remove_tree(path)


def remove_leftovers(out: Path, manifest: dict[str, Any], keep: list[str]) -> None:
    """Delete versions that the manifest no longer names, and staging folders except `keep`.

    A version that a process has open is left to the next call.
    """
    named = {f["file"] for entry in manifest["splits"].values() for f in files_of_split(entry)}
    for prefix, paths in _own_files(out).items():
        unused = [path for path in paths if path.name not in named]
        if unused and not _is_read(out / f"{prefix}-documents.npy"):
            for path in unused:
                path.unlink()
    staging = out / STAGING
    if not keep:
        remove_tree(staging)
    elif staging.is_dir():
        for path in sorted(staging.iterdir()):
            if path.name not in (*keep, "stdin"):
                remove_tree(path)


def _is_read(index: Path) -> bool:
    """Return whether a process has this version of a split open, by its lock on the index."""
    with contextlib.suppress(FileNotFoundError), index.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False
