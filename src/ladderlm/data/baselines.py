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
        self.counts = [np.zeros((256**k, 256), dtype=np.int64) for k in range(ORDER + 1)]
        self._probabilities: list[NDArray[np.float64]] | None = None

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
        self._probabilities = None

    def _count(self, texts: list[bytes]) -> None:
        for k, places in enumerate(_places(texts)):
            found = np.bincount(places, minlength=256 ** (k + 1))
            self.counts[k] += found.reshape(self.counts[k].shape)

    def _tables(self) -> list[NDArray[np.float64]]:
        if self._probabilities is None:
            below = np.full((1, 256), 1 / 256)
            tables = []
            for k, counts in enumerate(self.counts):
                n_types = np.count_nonzero(counts, axis=1)[:, None]
                total = counts.sum(axis=1)[:, None]
                # The context of order k - 1 is the last byte(s) of the context of order k.
                prior = np.tile(below, (256, 1)) if k else below
                seen = total > 0
                mixed = (counts + n_types * prior) / np.where(seen, total + n_types, 1)
                below = np.where(seen, mixed, prior)
                tables.append(below)
            self._probabilities = tables
        return self._probabilities

    def bits(self, texts: Iterable[bytes], order: int) -> float:
        """Give the code length of texts in bits with contexts of `order` bytes."""
        table = self._tables()[order].ravel()
        return float(sum(-np.log2(table[_places([text])[order]]).sum() for text in texts if text))


def _places(texts: Sequence[bytes]) -> list[NDArray[np.int64]]:
    """Give for each order the index context * 256 + byte of every byte of the texts."""
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
        return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))

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
