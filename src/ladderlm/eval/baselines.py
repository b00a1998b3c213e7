"""What models that need no training run make of the same text.

Owns byte counts (uniform, unigram, order 2) and general compressors, all in bits per byte of the
raw UTF-8 text, so that a trained model has something to be better than. No torch.
"""

import gzip
import lzma
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ByteModel", "trivial_models"]

ORDER = 2
_CHUNK_BYTES = 1 << 22


class ByteModel:
    """Counts of bytes after the two bytes before them, with shorter contexts to fall back on.

    Smoothing is Witten and Bell 1991 (method C), from the uniform distribution upwards:
    p_k(b) = (count_k(b) + types_k * p_(k-1)(b)) / (total_k + types_k), where types_k is how many
    different bytes followed the context. A document begins after two zero bytes.
    """

    def __init__(self) -> None:
        # Flat, at context * 256 + byte. The zeros of contexts that never come take no memory.
        self.counts = [np.zeros(256 ** (k + 1), np.int64) for k in range(ORDER + 1)]
        self._sums: list[tuple[NDArray[np.int64], NDArray[np.int64]]] | None = None

    def learn(self, texts: Iterable[bytes]) -> None:
        """Count the bytes of texts, each from its own beginning."""
        pending: list[bytes] = []
        size = 0
        for text in texts:
            pending.append(text)
            size += len(text)
            if size >= _CHUNK_BYTES:
                self._count(pending)
                pending, size = [], 0
        self._count(pending)
        self._sums = None

    def _count(self, texts: list[bytes]) -> None:
        for counts, places in zip(self.counts, _places(texts), strict=True):
            np.add.at(counts, places, 1)

    def _contexts(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return for each order what followed each context: how often, and how many kinds."""
        if self._sums is None:
            rows = [counts.reshape(-1, 256) for counts in self.counts]
            self._sums = [(row.sum(axis=1), np.count_nonzero(row, axis=1)) for row in rows]
        return self._sums

    def probabilities(self, places: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Return p_k of some bytes, where places[0..k] are their indices into the counts."""
        below = np.full(len(places[0]), 1 / 256)
        for counts, (totals, kinds), place in zip(
            self.counts, self._contexts(), places, strict=False
        ):
            total, n_types = totals[place >> 8], kinds[place >> 8]
            mixed = (counts[place] + n_types * below) / np.maximum(total + n_types, 1)
            below = np.where(total > 0, mixed, below)
        return below

    def bits(self, texts: Iterable[bytes], order: int) -> float:
        """Return the code length of texts in bits with contexts of `order` bytes."""
        return float(
            sum(
                -np.log2(self.probabilities(_places([text])[: order + 1])).sum()
                for text in texts
                if text
            )
        )


def _places(texts: Sequence[bytes]) -> list[NDArray[np.int64]]:
    """Return for each order the index context * 256 + byte of every byte of the texts."""
    before = bytes(ORDER)
    every_byte = np.frombuffer(b"".join(before + text for text in texts), dtype=np.uint8)
    joined = every_byte.astype(np.int64)
    starts = np.cumsum([0] + [len(text) + ORDER for text in texts])[:-1]
    real = np.ones(len(joined), dtype=bool)
    for shift in range(ORDER):
        real[starts + shift] = False
    last = np.flatnonzero(real)
    places, place = [], joined[last]
    for k in range(ORDER + 1):
        if k:
            place = place + joined[last - k] * 256**k
        places.append(place)
    return places


def trivial_models(train: Iterable[bytes], validation: Sequence[bytes]) -> dict[str, Any]:
    """Score the validation texts by models that anyone has for free.

    Args:
        train: texts that the byte models count.
        validation: texts that are scored, in order.

    Returns:
        `n_bytes` and `bits_per_byte` by name. Compressors see no training text; "whole" is one
        stream over all validation texts, "per document" restarts for each.
    """
    n_bytes = sum(map(len, validation))
    model = ByteModel()
    model.learn(train)
    whole = b"".join(validation)

    def rate(n_compressed: int) -> float:
        return 8 * n_compressed / n_bytes if n_bytes else math.nan

    def zipped(text: bytes) -> int:
        return len(gzip.compress(text, 9, mtime=0))

    def xz(text: bytes) -> int:
        # A dictionary longer than the text finds no more, and clearing 64 MiB takes 50 ms.
        preset = 9 | lzma.PRESET_EXTREME
        size = min(max(len(text), 1 << 12), 1 << 26)
        filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": size}]
        return len(lzma.compress(text, filters=filters))

    return {
        "n_documents": len(validation),
        "n_bytes": n_bytes,
        "bits_per_byte": {
            "uniform bytes": 8.0,
            "byte unigram": model.bits(validation, 0) / max(n_bytes, 1),
            "order-2 byte model": model.bits(validation, 2) / max(n_bytes, 1),
            "gzip -9, each document": rate(sum(map(zipped, validation))),
            "gzip -9, whole": rate(zipped(whole)),
            "xz -9e, each document": rate(sum(map(xz, validation))),
            "xz -9e, whole": rate(xz(whole)),
        },
    }
