"""Prepared data on disk: token shards, document index, manifest.

Owns the format and its verifying reader; `shard_writer` writes it. Reads with `pread` and never
through a memory map, so that a file that shrinks during a run is an error and not a crash.
"""

import contextlib
import fcntl
import functools
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.config import content_hash
from ladderlm.data.shard_writer import INDEX_DTYPE
from ladderlm.errors import DataError
from ladderlm.files import read_json, sha256_file

__all__ = [
    "FORMAT_VERSION",
    "PreparedData",
    "Split",
    "files_of_split",
    "manifest_fingerprint",
    "open_data",
    "token_dtype",
]

FORMAT_VERSION = 2


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return uint16 if every id fits, else uint32. More than 2^32 ids are a `DataError`."""
    if vocab_size <= 2**16:
        return np.dtype("<u2")
    if vocab_size <= 2**32:
        return np.dtype("<u4")
    raise DataError(f"a vocabulary of {vocab_size} does not fit in 32 bits")


@dataclass(frozen=True)
class Split:
    """One split of prepared data, opened for reading.

    Args:
        name: for example "train".
        fingerprint: hash of its tokens and index.
        n_tokens: with BOS and EOS.
        offsets: (n_documents + 1,), first token of each document; the last entry is the end.
        n_bytes: (n_documents,), UTF-8 bytes of each raw text.
        subset_ids: (n_documents,), indices into `subset_names`.
        shards: path, first token and end of each.
    """

    name: str
    fingerprint: str
    n_documents: int
    n_tokens: int
    subset_names: tuple[str, ...]
    offsets: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    subset_ids: NDArray[np.int64]
    shards: tuple[tuple[Path, int, int], ...]
    dtype: np.dtype[Any]

    def tokens(self, start: int, stop: int) -> NDArray[Any]:
        """Read tokens start .. stop - 1 of the split, across shards.

        Raises:
            DataError: the range is not in the split, or a shard is shorter than its manifest says.
        """
        if not 0 <= start <= stop <= self.n_tokens:
            raise DataError(f"split {self.name} has {self.n_tokens} tokens, not {start}..{stop}")
        parts = [
            self._read(path, max(start, first) - first, min(stop, end) - max(start, first))
            for path, first, end in self.shards
            if max(start, first) < min(stop, end)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, self.dtype), *parts])

    def _read(self, path: Path, start: int, n_tokens: int) -> NDArray[Any]:
        n_bytes = n_tokens * self.dtype.itemsize
        data = os.pread(_descriptor(path), n_bytes, start * self.dtype.itemsize)
        if len(data) != n_bytes:
            raise DataError(
                f"{path} ends {n_bytes - len(data)} bytes too early",
                "the file was truncated while it was in use",
                "prepare the data again, then resume the run",
            )
        return np.frombuffer(data, dtype=self.dtype)

    def document(self, index: int) -> NDArray[Any]:
        """Read one document, with BOS and EOS."""
        return self.tokens(int(self.offsets[index]), int(self.offsets[index + 1]))


_MAX_OPEN = 16
_open_files: dict[Path, int] = {}


def _descriptor(path: Path) -> int:
    """Return a descriptor of a shard; a few shards stay open."""
    if path not in _open_files:
        if len(_open_files) >= _MAX_OPEN:
            _forget(next(iter(_open_files)))
        _open_files[path] = os.open(path, os.O_RDONLY)
    return _open_files[path]


def _forget(path: Path) -> None:
    if path in _open_files:
        os.close(_open_files.pop(path))


class PreparedData:
    """A folder written by `ladderlm prepare`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        tokenizer = manifest["tokenizer"]
        self.vocab_size, self.bos_id = int(tokenizer["vocab_size"]), int(tokenizer["bos_id"])
        self.eos_id, self.tokenizer_fingerprint = int(tokenizer["eos_id"]), tokenizer["fingerprint"]
        self.tokenizer_folder = path / "tokenizer"

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.manifest["splits"])

    def split(self, name: str, verify: bool = True) -> Split:
        """Open a split.

        Args:
            verify: compare the SHA-256 of every file with the manifest, once per process.

        Raises:
            DataError: no such split, or a damaged file.
        """
        if name not in self.manifest["splits"]:
            raise DataError(
                f"{self.path} has no split {name!r}, only {', '.join(self.split_names)}",
                fix=f"prepare it: ladderlm prepare SOURCE --split {name} --out {self.path}",
            )
        entry = self.manifest["splits"][name]
        held = _hold(self.path / entry["index"]["file"])
        try:
            for file in [*entry["shards"], entry["index"]]:
                self._check_file(file, verify)
            split = self._open_split(name, entry)
        except BaseException:
            os.close(held)
            raise
        weakref.finalize(split, os.close, held)
        return split

    def check_files(self, name: str) -> None:
        """Compare every file of a split with the manifest, including those for the overlap.

        Raises:
            DataError: a damaged file.
        """
        for file in files_of_split(self.manifest["splits"][name]):
            self._check_file(file, verify=True)

    def _check_file(self, file: dict[str, Any], verify: bool) -> None:
        path = self.path / file["file"]
        if Path(file["file"]).name != file["file"]:
            raise _damaged(path, "it is not in the folder of its manifest")
        if path.is_symlink() or not path.is_file():
            raise _damaged(path, "it is missing or not a regular file")
        status = path.stat()
        if status.st_size != file["n_bytes"]:
            sizes = f"it has {status.st_size} bytes, the manifest says {file['n_bytes']}"
            raise _damaged(path, sizes)
        _forget(path)
        if verify:
            _check_hash(path, file["sha256"], status.st_size, status.st_mtime_ns)

    def _open_split(self, name: str, entry: dict[str, Any]) -> Split:
        path = self.path / entry["index"]["file"]
        try:
            rows = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise _damaged(path, f"{error}") from error
        if not isinstance(rows, np.ndarray) or rows.dtype != INDEX_DTYPE or rows.ndim != 1:
            raise _damaged(path, "it is not an index of documents")
        offsets = np.append(rows["offset"].astype(np.int64), entry["n_tokens"])
        shards, end = [], 0
        for shard in entry["shards"]:
            shards.append((self.path / shard["file"], end, end + shard["n_tokens"]))
            end += shard["n_tokens"]
        if len(rows) != entry["n_documents"] or end != entry["n_tokens"]:
            raise _damaged(path, "the index does not match the shards")
        if (np.diff(offsets) < 2).any() or (rows["subset"] >= len(entry["subset_names"])).any():
            raise _damaged(path, "the index holds an impossible document")
        if entry["max_token_id"] >= self.vocab_size:
            raise _damaged(path, f"token id {entry['max_token_id']} >= {self.vocab_size}")
        return Split(
            name=name,
            fingerprint=entry["fingerprint"],
            n_documents=len(rows),
            n_tokens=end,
            subset_names=tuple(entry["subset_names"]),
            offsets=offsets,
            n_bytes=rows["n_bytes"].astype(np.int64),
            subset_ids=rows["subset"].astype(np.int64),
            shards=tuple(shards),
            dtype=np.dtype(self.manifest["dtype"]),
        )


def files_of_split(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every file that a split's entry of the manifest names."""
    return [*entry["shards"], entry["index"], *entry.get("text_hashes", {}).values()]


def _hold(index: Path) -> int:
    """Return a descriptor that keeps `prepare` from deleting this version of a split."""
    try:
        descriptor = os.open(index, os.O_RDONLY | os.O_NOFOLLOW)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _damaged(index, f"it cannot be opened ({error})") from error
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def open_data(path: Path | str) -> PreparedData:
    """Open a folder of prepared data by its manifest.

    Raises:
        DataError: no manifest, a damaged one, or another format version.
    """
    path = Path(path)
    file = path / "manifest.json"
    fix = f"prepare the data: ladderlm prepare SOURCE... --tokenizer DIR --out {path}"
    if not file.is_file():
        raise DataError(f"{path} holds no prepared data (no manifest.json)", fix=fix)
    manifest = read_json(file)
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{file} has data format {version!r}, this ladderlm reads {FORMAT_VERSION}", fix=fix
        )
    if manifest.get("fingerprint") != manifest_fingerprint(manifest):
        raise DataError(
            f"{file} does not match its own fingerprint",
            "it was edited or damaged after it was written",
            fix,
        )
    return PreparedData(path, manifest)


def manifest_fingerprint(manifest: dict[str, Any]) -> str:
    """Compute the hash of everything in a manifest except the fingerprint."""
    return content_hash({key: value for key, value in manifest.items() if key != "fingerprint"})


@functools.lru_cache(maxsize=4096)
def _check_hash(path: Path, digest: str, _n_bytes: int, _modified_ns: int) -> None:
    if sha256_file(path) != digest:
        raise _damaged(path, "its SHA-256 is not the manifest's")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is damaged: {what}",
        "training on changed tokens would be silently wrong",
        "delete the folder and prepare the data again",
    )
