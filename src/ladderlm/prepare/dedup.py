"""Find equal keys among more documents than fit in memory.

Owns an external sort of 64-bit keys. Keys are hashes, so cutting their range evenly gives shares
of about equal size. One share at a time is in memory: about `run_entries` entries of 16 bytes.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ladderlm.files import publish_stream

__all__ = ["KeyTable"]

RUN_ENTRIES = 1 << 20


class KeyTable:
    """Keys of documents 0, 1, 2, ..., moved to disk once there are many.

    Two different texts share a 64-bit key with probability n^2 / 2^65 among n texts: 3e-6 for
    10^7 documents.

    Args:
        folder: for sorted runs; nothing else may use it.
        run_entries: number of entries in memory.
    """

    def __init__(self, folder: Path, run_entries: int = RUN_ENTRIES) -> None:
        self.folder, self.run_entries = folder, run_entries
        self._pending: list[NDArray[np.uint64]] = []
        self._n_pending = self.n_entries = 0
        self._runs: list[tuple[Path, int, int]] = []  # file, its entries, position of the first

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Append the keys of the next documents."""
        self._pending.append(keys.copy())  # a view would hold the tokens that it came with
        self._n_pending += len(keys)
        self.n_entries += len(keys)
        if self._n_pending >= self.run_entries:
            self._spill()

    def _sort_pending(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        keys = np.concatenate([np.empty(0, np.uint64), *self._pending])
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def _spill(self) -> None:
        keys, order = self._sort_pending()
        self._pending, self._n_pending = [], 0
        path = self.folder / f"{len(self._runs):05d}.run"
        with publish_stream(path) as stream:
            stream.write(keys.astype("<u8").tobytes())
            stream.write(order.astype("<i8").tobytes())
        self._runs.append((path, len(keys), self.n_entries - len(keys)))

    def _shares(self) -> Iterator[list[tuple[NDArray[np.uint64], NDArray[np.int64]]]]:
        """Return each share of the range of keys: (keys, positions) of each run, in order."""
        if not self._runs:
            yield [self._sort_pending()]
            return
        if self._n_pending:
            self._spill()
        n_shares = -(-self.n_entries // self.run_entries)
        borders = np.array([(i << 64) // n_shares for i in range(1, n_shares)], np.uint64)
        cuts = []
        for path, n, _ in self._runs:
            inner = np.searchsorted(np.fromfile(path, "<u8", n), borders).tolist()
            cuts.append([0, *inner, n])
        for share in range(n_shares):
            yield [
                self._slice(run, cut[share], cut[share + 1])
                for run, cut in zip(self._runs, cuts, strict=True)
            ]

    def _slice(
        self, run: tuple[Path, int, int], start: int, stop: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        path, n, first = run
        keys = np.fromfile(path, "<u8", stop - start, offset=8 * start)
        places = np.fromfile(path, "<i8", stop - start, offset=8 * (n + start))
        return keys.astype(np.uint64), places.astype(np.int64) + first

    def sorted_keys(self) -> Iterator[NDArray[np.uint64]]:
        """Return all keys in ascending order, in several arrays; equal keys are in one array."""
        for runs in self._shares():
            yield np.sort(np.concatenate([keys for keys, _ in runs]))

    def repeated(self) -> NDArray[np.bool_]:
        """Return for each document whether an earlier one has the same key: (n_entries,)."""
        repeated = np.zeros(self.n_entries, bool)
        for runs in self._shares():
            kept_keys, kept_places = [], []
            for keys, places in runs:  # within a run first, so that a share of copies stays small
                again = _same_as_before(keys)
                repeated[places[again]] = True
                kept_keys.append(keys[~again])
                kept_places.append(places[~again])
            keys, places = np.concatenate(kept_keys), np.concatenate(kept_places)
            order = np.argsort(keys, kind="stable")
            repeated[places[order][_same_as_before(keys[order])]] = True
        return repeated


def _same_as_before(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    same = np.zeros(len(keys), bool)
    same[1:] = keys[1:] == keys[:-1]
    return same
