"""Write the token shards and the document index of one split.

Owns how documents become files, in memory that does not grow with their number. Does not own the
manifest.
"""

import functools
import hashlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import publish_stream, sha256_file

__all__ = ["INDEX_DTYPE", "SplitWriter"]

INDEX_DTYPE = np.dtype([("offset", "<u8"), ("n_bytes", "<u8"), ("subset", "<u2")])
SHARD_TOKENS = 64 << 20
MAX_SUBSETS = 1 << 16  # what the index can number


class SplitWriter:
    """Writer of one split: `<split>-00000.bin` ... and `<split>-documents.npy`.

    A file gets its name only when it is complete.

    Args:
        dtype: from `token_dtype`.
        shard_tokens: a shard is closed at the end of the document that reaches this size.
    """

    def __init__(
        self, folder: Path, split: str, dtype: np.dtype[Any], shard_tokens: int = SHARD_TOKENS
    ) -> None:
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        self._subset_ids: dict[str, int] = {}
        self._counts = np.zeros((0, 3), np.int64)  # documents, bytes, tokens of each subset
        self._shards: list[dict[str, Any]] = []
        self._n_documents = self._n_tokens = self._max_id = 0
        self._shard: _OpenShard | None = None
        self._index_path = folder / f"{split}-documents.npy"

    @functools.cached_property
    def _index(self) -> IO[bytes]:
        self._index_file = publish_stream(self._index_path)
        stream = self._index_file.__enter__()
        _write_header(stream, 0)
        return stream

    def add(self, tokens: NDArray[np.int64], n_bytes: int, subset: str) -> None:
        """Append one document; see `add_documents`."""
        n_tokens, size = np.array([len(tokens)]), np.array([n_bytes])
        self.add_documents(tokens, n_tokens, size, np.zeros(1, np.int64), (subset,))

    def add_documents(
        self,
        tokens: NDArray[Any],
        n_tokens: NDArray[np.int64],
        n_bytes: NDArray[np.int64],
        subset_ids: NDArray[np.int64],
        subset_names: tuple[str, ...],
    ) -> None:
        """Append n documents.

        Args:
            tokens: documents end to end, each with BOS and EOS.
            n_tokens: (n,), tokens of each.
            n_bytes: (n,), UTF-8 bytes of each raw text.
            subset_ids: (n,), indices into `subset_names`.

        Raises:
            DataError: an id does not fit in the dtype, or there are more than 65,536 subsets.
        """
        if not len(n_tokens):
            return
        lowest, largest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or largest > np.iinfo(self.dtype).max:
            wrong = lowest if lowest < 0 else largest
            raise DataError(f"token id {wrong} does not fit in {self.dtype}")
        self._max_id = max(self._max_id, largest)
        for i in dict.fromkeys(subset_ids.tolist()):  # in order of use
            if subset_names[i] not in self._subset_ids:
                self._name_subset(subset_names[i])
        ids = np.array([self._subset_ids.get(name, 0) for name in subset_names])[subset_ids]
        for column, amounts in enumerate((np.ones_like(n_tokens), n_bytes, n_tokens)):
            np.add.at(self._counts[:, column], ids, amounts)
        ends = np.cumsum(n_tokens)
        rows = np.empty(len(n_tokens), INDEX_DTYPE)
        rows["offset"] = self._n_tokens + ends - n_tokens
        rows["n_bytes"], rows["subset"] = n_bytes, ids
        self._index.write(rows.tobytes())
        self._write_tokens(tokens.astype(self.dtype, copy=False), ends)
        self._n_documents += len(n_tokens)
        self._n_tokens += int(ends[-1])

    def _name_subset(self, subset: str) -> None:
        if len(self._subset_ids) == MAX_SUBSETS:
            raise DataError(
                f"a split can have at most {MAX_SUBSETS:,} subsets, the next is {subset[:80]!r}",
                "the key seems to name documents, not kinds of text",
                "choose another --subset-key",
            )
        self._subset_ids[subset] = len(self._subset_ids)
        if len(self._counts) < len(self._subset_ids):
            more = np.zeros((max(len(self._counts), 16), 3), np.int64)
            self._counts = np.concatenate([self._counts, more])

    def _write_tokens(self, tokens: NDArray[Any], ends: NDArray[np.int64]) -> None:
        """Write documents into shards."""
        begin = 0
        while begin < len(tokens):
            if self._shard is None:
                name = f"{self.split}-{len(self._shards):05d}.bin"
                self._shard = _OpenShard(self.folder / name)
            room = begin + self.shard_tokens - self._shard.n_tokens
            end = int(ends[min(int(np.searchsorted(ends, room)), len(ends) - 1)])
            self._shard.write(tokens[begin:end])
            begin = end
            if self._shard.n_tokens >= self.shard_tokens:
                self._close_shard()

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shards.append(self._shard.close())
            self._shard = None

    def finish(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Close the last shard and the index, and return the split's entry for the manifest."""
        self._close_shard()
        self._index.seek(0)
        _write_header(self._index, self._n_documents)
        self._index_file.__exit__(None, None, None)
        path = self._index_path
        index = {"file": path.name, "n_bytes": path.stat().st_size, "sha256": sha256_file(path)}
        keys, names = ("n_documents", "n_bytes", "n_tokens"), list(self._subset_ids)
        counts = self._counts[: len(names)]
        entry: dict[str, Any] = {
            "n_documents": self._n_documents,
            "n_bytes": int(counts[:, 1].sum()),
            "n_tokens": self._n_tokens,
            "n_text_tokens": self._n_tokens - 2 * self._n_documents,
            "max_token_id": self._max_id,
            "subset_names": names,
            "subsets": {
                name: dict(zip(keys, row, strict=True))
                for name, row in sorted(zip(names, counts.tolist(), strict=True))
            },
            "shards": self._shards,
            "index": index,
            **extra,
        }
        hashed = [self.dtype.str, index["sha256"], [s["sha256"] for s in self._shards]]
        entry["fingerprint"] = content_hash([*hashed, entry["subset_names"]])
        return entry


class _OpenShard:
    """A shard that is being written. If it is never closed, its temporary file is removed."""

    def __init__(self, path: Path) -> None:
        self.path, self.n_tokens, self._n_bytes = path, 0, 0
        self._digest = hashlib.sha256()
        self._file = publish_stream(path)
        self._stream = self._file.__enter__()

    def write(self, tokens: NDArray[Any]) -> None:
        data = np.ascontiguousarray(tokens).view(np.uint8).data
        self._stream.write(data)
        self._digest.update(data)
        self.n_tokens += len(tokens)
        self._n_bytes += len(data)

    def close(self) -> dict[str, Any]:
        self._file.__exit__(None, None, None)
        sizes = {"n_tokens": self.n_tokens, "n_bytes": self._n_bytes}
        return {"file": self.path.name, **sizes, "sha256": self._digest.hexdigest()}


def _write_header(stream: IO[bytes], n_rows: int) -> None:
    # NumPy leaves room for the longest shape, so the header can be rewritten in place.
    descr = np.lib.format.dtype_to_descr(INDEX_DTYPE)
    header = {"descr": descr, "fortran_order": False, "shape": (n_rows,)}
    np.lib.format.write_array_header_1_0(stream, header)
