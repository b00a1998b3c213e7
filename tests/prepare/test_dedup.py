"""Equal keys among many, and keys that near duplicates share."""

import random
import weakref
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.prepare.dedup import KeyTable
from ladderlm.prepare.minhash import N_BANDS, N_ROWS, SHINGLE_TOKENS, band_keys

KEYS = st.lists(
    st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 5), st.just(2**64 - 1)), max_size=60
)


@given(keys=KEYS, run_entries=st.integers(1, 20), step=st.integers(1, 9))
def test_repeats_and_order_are_those_of_the_naive_twin(tmp_path_factory, keys, run_entries, step):
    """In memory or in many runs on disk, with few keys or many."""
    table = KeyTable(tmp_path_factory.mktemp("keys"), run_entries)
    for start in range(0, len(keys), step):
        table.add(np.array(keys[start : start + step], np.uint64))
    seen, expected = set(), []
    for key in keys:
        expected.append(key in seen)
        seen.add(key)
    assert table.repeated().tolist() == expected
    arrays = [array.tolist() for array in table.sorted_keys()]
    assert list(chain(*arrays)) == sorted(keys)
    borders = [array for array in arrays if array]
    assert all(a[-1] != b[0] for a, b in pairwise(borders))


def test_keys_that_wait_do_not_hold_what_they_were_cut_from(tmp_path):
    """They are a piece's, which has megabytes of tokens besides."""
    piece = np.arange(1000, dtype=np.uint64)
    gone = weakref.ref(piece)
    table = KeyTable(tmp_path, run_entries=1 << 20)
    table.add(piece[10:20])
    del piece
    assert gone() is None
    assert not table.repeated().any()


def signature_inputs(documents):
    tokens = np.array(list(chain(*([1, *d, 2] for d in documents))), np.uint16)
    return tokens, np.array([len(d) + 2 for d in documents])


@given(
    documents=st.lists(st.lists(st.integers(3, 9), max_size=12), min_size=1, max_size=6),
    other=st.lists(st.integers(3, 9), max_size=12),
)
def test_the_keys_of_a_document_depend_on_it_alone(documents, other):
    keys = band_keys(*signature_inputs(documents))
    assert keys.shape == (len(documents), N_BANDS)
    for document, own in zip(documents, keys, strict=True):
        assert (band_keys(*signature_inputs([document]))[0] == own).all()
        assert (band_keys(*signature_inputs([other, document]))[1] == own).all()


def jaccard(a, b):
    shingles = [
        {tuple(d[i : i + SHINGLE_TOKENS]) for i in range(len(d) - SHINGLE_TOKENS + 1)}
        for d in (a, b)
    ]
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.15])
def test_how_often_a_key_is_shared_follows_the_stated_curve(share):
    """Measured on 300 pairs against 1 - (1 - J^r)^b, within four standard errors."""
    rng = random.Random(5)
    n_pairs, found, expected = 300, 0, 0.0
    for _ in range(n_pairs):
        first = [rng.randrange(3, 60_000) for _ in range(400)]
        second = [rng.randrange(3, 60_000) if rng.random() < share else t for t in first]
        keys = band_keys(*signature_inputs([first, second]))
        found += bool((keys[0] == keys[1]).any())
        expected += 1 - (1 - jaccard(first, second) ** N_ROWS) ** N_BANDS
    error = 4 * (n_pairs * 0.25) ** 0.5
    assert abs(found - expected) <= max(error, 1)


def test_unrelated_documents_share_no_key():
    rng = random.Random(6)
    documents = [
        [rng.randrange(3, 60_000) for _ in range(rng.randrange(1, 99))] for _ in range(200)
    ]
    keys = band_keys(*signature_inputs(documents))
    for band in range(N_BANDS):
        assert len(set(keys[:, band].tolist())) == len(documents)
