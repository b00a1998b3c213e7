"""Rows drawn from subsets by weight: the stated shares, every document in turn, no state."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.config import content_hash, from_dict, meaning_of, to_dict
from ladderlm.data.config import DataConfig
from ladderlm.data.mixture import PERIOD_ROWS, Mixture, share_rows
from ladderlm.data.shard_writer import SplitWriter
from ladderlm.data.shards import PreparedData
from ladderlm.data.stream import RowStream
from ladderlm.errors import ConfigError, DataError

BOS, EOS = 998, 999
NAMES = ("Web", "Code", "Mail (old)")


@pytest.fixture
def split(tmp_path):
    """90 documents of three subsets; each token says its document."""
    writer = SplitWriter(tmp_path, "train", np.dtype("<u2"))
    rng = random.Random(1)
    for i in range(90):
        body = [i] * rng.randrange(1, 30)
        writer.add(np.array([BOS, *body, EOS]), 1, NAMES[(i * i) % 3 if i % 7 else 2])
    tokenizer = {"vocab_size": 1000, "bos_id": BOS, "eos_id": EOS, "fingerprint": ""}
    manifest = {"splits": {"train": writer.finish({})}, "tokenizer": tokenizer, "dtype": "<u2"}
    return PreparedData(tmp_path, manifest).split("train")


def config_of(**weights):
    named = tuple(
        (name, weights[key]) for key, name in zip("abc", NAMES, strict=True) if key in weights
    )
    return DataConfig(seq_len=8, subset_weights=named)


@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_shares_are_those_of_the_weights_to_one_row(weights):
    shares = share_rows(np.array(weights))
    assert shares.sum() == PERIOD_ROWS
    assert shares.min() >= 1
    exact = np.array(weights) / sum(weights) * PERIOD_ROWS
    large = exact >= len(weights) + 1
    assert (np.abs(shares - exact)[large] <= len(weights) + 1).all()
    if exact.min() >= 1:
        assert (np.abs(shares - exact) < 1).all()


def test_rows_have_the_subsets_in_the_given_shares(split):
    stream = RowStream(split, config_of(a=3, b=1), BOS)
    found = Counter()
    for first in range(0, PERIOD_ROWS, 512):
        batch = stream.rows(first, 512)
        for row in batch.document_ids:
            (subset,) = {split.subset_names[split.subset_ids[d]] for d in row[row >= 0]}
            found[subset] += 1
    assert found == {"Web": PERIOD_ROWS * 3 // 4, "Code": PERIOD_ROWS // 4}


def test_each_subset_is_gone_through_epoch_after_epoch(split):
    """Every pair of a subset's documents is trained on once before any is trained on again."""
    mixture = Mixture(split, config_of(a=5, b=2, c=1))
    pairs = np.diff(split.offsets) - 1
    rows = {subset: [] for subset in range(3)}
    for row in range(2 * PERIOD_ROWS):
        subset, index = mixture.place(row)
        assert index == len(rows[subset])
        rows[subset].append(mixture.row(row))
    for subset, name in enumerate(NAMES):
        own = [i for i in range(90) if split.subset_names[split.subset_ids[i]] == name]
        n_rows = -(-int(pairs[own].sum()) // 8)
        for epoch in range(3):
            seen = Counter()
            for pieces in rows[subset][epoch * n_rows : (epoch + 1) * n_rows]:
                for piece in pieces:
                    seen.update((piece.document, piece.start + i) for i in range(piece.n_tokens))
            assert seen == {(i, at): 1 for i in own for at in range(pairs[i])}


@given(first=st.integers(0, 10**7), n_rows=st.integers(1, 9), world_size=st.integers(1, 4))
def test_any_row_is_the_same_to_any_number_of_processes(split, first, n_rows, world_size):
    stream = RowStream(split, config_of(a=1, c=2), BOS)
    whole = stream.rows(first, n_rows)
    again = RowStream(split, config_of(a=1, c=2), BOS)
    parts = [again.rows(first, n_rows, rank, world_size) for rank in range(world_size)]
    assert np.concatenate([part.tokens for part in parts]).tolist() == whole.tokens.tolist()
    assert stream.n_targets(first, n_rows) == whole.n_targets


def test_the_order_follows_the_seed_and_the_weights_alone(split):
    config = config_of(a=1, b=1)
    rows = RowStream(split, config, BOS).rows(0, 64).document_ids.tolist()
    assert RowStream(split, config_of(a=2, b=2), BOS).rows(0, 64).document_ids.tolist() == rows
    other = replace(config, order_seed=2)
    assert RowStream(split, other, BOS).rows(0, 64).document_ids.tolist() != rows


def test_no_weights_stay_out_of_the_name_of_a_run():
    plain = meaning_of(DataConfig())
    assert "subset_weights" not in plain
    weighted = config_of(a=1.5)
    assert content_hash(meaning_of(weighted)) != content_hash(plain)
    assert from_dict(DataConfig, to_dict(weighted)) == weighted


@pytest.mark.parametrize(
    "weights", [(("Web", 0.0),), (("Web", -1.0),), (("Web", 1.0), ("Web", 2.0))]
)
def test_weights_are_above_zero_and_named_once(weights):
    with pytest.raises(ConfigError, match="subset_weights"):
        DataConfig(subset_weights=weights)


def test_a_subset_that_is_not_there_is_refused_with_those_that_are(split):
    with pytest.raises(DataError, match="'Wob'") as caught:
        RowStream(split, DataConfig(subset_weights=(("Wob", 1.0),)), BOS)
    assert "'Web', 'Mail (old)'" in caught.value.fix or "'Web'" in caught.value.fix
