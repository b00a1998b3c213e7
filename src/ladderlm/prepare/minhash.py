"""Keys that near duplicates have in common.

Owns the MinHash signature of a document's tokens and its bands. Two documents whose sets of
shingles have Jaccard similarity J share at least one key with probability 1 - (1 - J^r)^b, for b
bands of r values: about 1 % at J = 0.2, 40 % at 0.5, 79 % at 0.65, 98 % at 0.8.

Source: Broder 1997 (MinHash); Li, Owen, Zhang 2012 (one permutation); Shrivastava, Li 2014
(densification, by rotation).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_BANDS", "N_ROWS", "SHINGLE_TOKENS", "band_keys"]

SHINGLE_TOKENS, N_BANDS, N_ROWS = 5, 8, 4
_N_BINS = N_BANDS * N_ROWS
_BIN_BITS = _N_BINS.bit_length() - 1
_DOCUMENT_BITS = 24
_EMPTY = np.uint64(2**64 - 1)
_OFFSET = 0x9E3779B97F4A7C15  # added to borrowed values; odd, so its multiples all differ


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit values one to one (Steele et al. 2014, SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def band_keys(tokens: NDArray[Any], n_tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the MinHash keys of documents.

    Args:
        tokens: (t,), documents one after another, each with BOS and EOS, which are left out.
        n_tokens: (n,), length of each.

    Returns:
        (n, N_BANDS). A document of fewer than SHINGLE_TOKENS tokens is one shingle.
    """
    if not len(n_tokens):
        return np.empty((0, N_BANDS), np.uint64)
    ends = np.cumsum(n_tokens)
    firsts, lengths = ends - n_tokens + 1, n_tokens - 2
    n_shingles = np.maximum(lengths - SHINGLE_TOKENS + 1, 1)
    document = np.repeat(np.arange(len(n_tokens)), n_shingles)
    starts = np.repeat(firsts - (np.cumsum(n_shingles) - n_shingles), n_shingles)
    starts += np.arange(len(document))
    width = np.minimum(lengths, SHINGLE_TOKENS)[document]
    hashes = np.zeros(len(document), np.uint64)
    for i in range(SHINGLE_TOKENS):
        token = tokens[np.minimum(starts + i, len(tokens) - 1)].astype(np.uint64) + np.uint64(1)
        token[width <= i] = 0
        hashes = hashes * np.uint64(0xD1342543DE82EF95) + token
    signatures = _signatures(_mix(hashes), document, len(n_tokens))
    rows = signatures.reshape(len(signatures), N_BANDS, N_ROWS)
    keys = np.arange(N_BANDS, dtype=np.uint64)[None, :] * np.ones((len(rows), 1), np.uint64)
    for i in range(N_ROWS):
        keys = _mix(keys * np.uint64(0xD1342543DE82EF95) + rows[:, :, i])
    return keys


def _signatures(
    hashes: NDArray[np.uint64], document: NDArray[np.int64], n_documents: int
) -> NDArray[np.uint64]:
    """Return the smallest hash per document and bin, (n_documents, _N_BINS); empty bins filled."""
    signatures = np.full((n_documents, _N_BINS), _EMPTY)
    value_bits = 64 - _DOCUMENT_BITS - _BIN_BITS
    bins = hashes >> np.uint64(64 - _BIN_BITS)
    group = (document.astype(np.uint64) << np.uint64(_BIN_BITS)) | bins
    key = (group << np.uint64(value_bits)) | (hashes & np.uint64((1 << value_bits) - 1))
    key.sort()  # the smallest value of each group comes first
    group = key >> np.uint64(value_bits)
    first = np.ones(len(key), bool)
    first[1:] = group[1:] != group[:-1]
    signatures.reshape(-1)[group[first].astype(np.int64)] = key[first] & np.uint64(
        (1 << value_bits) - 1
    )
    # An empty bin takes the value of the next full one to its right, plus an offset by distance.
    full = signatures != _EMPTY
    filled = signatures.copy()
    for distance in range(1, _N_BINS):
        want = filled == _EMPTY
        if not want.any():
            break
        have = want & np.roll(full, -distance, axis=1)
        offset = np.uint64(distance * _OFFSET % 2**64)
        filled[have] = np.roll(signatures, -distance, axis=1)[have] + offset
    return filled
