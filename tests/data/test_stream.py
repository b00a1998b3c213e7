"""Batches by row number: what the model is fed, for any number of processes and epochs."""

import functools
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import SPLIT_BOS, SPLIT_EOS, make_split
from ladderlm.data import best_fit, packing
from ladderlm.data import stream as stream_module
from ladderlm.data.batch import Batch, join_batches
from ladderlm.data.config import DataConfig
from ladderlm.data.shards import open_data
from ladderlm.data.stream import RowStream, fill_rows
from ladderlm.errors import DataError

LENGTHS = st.lists(st.integers(2, 25), min_size=1, max_size=10)
CONFIGS = st.builds(
    DataConfig,
    seq_len=st.integers(2, 20),
    packing=st.sampled_from(["concat", "padded", "best-fit"]),
    order_seed=st.integers(0, 9),
    n_lanes=st.integers(1, 9),
)


@pytest.fixture
def stream_of(tmp_path_factory):
    """Return a builder of streams over documents of given lengths."""

    def build(lengths, config):
        folder = tmp_path_factory.mktemp("split")
        return RowStream(make_split(folder, lengths, shard_tokens=30), config, SPLIT_BOS)

    return build


def pairs_of(batch):
    """Return (document, input, target) of all places that count."""
    mask = batch.loss_mask
    columns = (batch.document_ids[mask], batch.tokens[mask], batch.targets[mask])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def all_pairs(split):
    found = []
    for document in range(split.n_documents):
        tokens = split.document(document).tolist()
        found += [(document, a, b) for a, b in pairwise(tokens)]
    return found


@given(lengths=LENGTHS, config=CONFIGS)
def test_an_epoch_trains_on_every_pair_exactly_once(stream_of, lengths, config):
    stream = stream_of(lengths, config)
    batch = stream.rows(0, stream.rows_per_epoch)
    assert sorted(pairs_of(batch)) == sorted(all_pairs(stream.split))
    assert batch.n_targets == stream.split.n_tokens - stream.split.n_documents


@given(lengths=LENGTHS, config=CONFIGS, first=st.integers(0, 40), n_rows=st.integers(1, 30))
def test_every_batch_keeps_its_promises(stream_of, lengths, config, first, n_rows):
    stream = stream_of(lengths, config)
    batch = stream.rows(first, n_rows)
    padding = batch.segment_ids == -1
    for array in vars(batch).values():
        assert array.shape == (n_rows, config.seq_len)
    assert {a.dtype.name for n, a in vars(batch).items() if n != "loss_mask"} == {"int64"}
    assert batch.loss_mask.dtype == bool
    assert (batch.loss_mask == ~padding).all()  # T01: no loss falls on padding
    assert (batch.tokens[padding] == 0).all()
    assert (batch.targets[padding] == 0).all()
    assert (batch.document_ids == -1)[padding].all()
    assert (batch.document_ids >= 0)[~padding].all()
    assert not (batch.tokens == SPLIT_EOS).any()  # EOS is a target, never an input
    assert not (batch.targets == SPLIT_BOS).any()  # BOS is an input, never a target
    assert batch.n_targets == stream.n_targets(first, n_rows)
    for row in range(n_rows):
        n_real = int((~padding[row]).sum())
        assert n_real >= 1
        assert not padding[row, :n_real].any()  # padding only at the end
        segments = batch.segment_ids[row, :n_real]
        steps = np.diff(segments)
        assert segments[0] == 0
        assert set(steps.tolist()) <= {0, 1}
        for segment in range(segments[-1] + 1):
            own = np.flatnonzero(segments == segment)
            assert batch.positions[row, own].tolist() == list(range(len(own)))
            assert len(set(batch.document_ids[row, own].tolist())) == 1
            inside = own[1:]
            assert (batch.tokens[row, inside] == batch.targets[row, inside - 1]).all()  # T06


@given(
    lengths=LENGTHS,
    config=CONFIGS,
    first=st.integers(0, 40),
    n_rows=st.integers(1, 20),
    world_size=st.integers(1, 7),
)
def test_any_number_of_processes_get_the_same_rows_together(
    stream_of, lengths, config, first, n_rows, world_size
):
    """T04: contiguous shares that differ by one row at most."""
    stream = stream_of(lengths, config)
    whole = stream.rows(first, n_rows)
    shares = [stream.rows(first, n_rows, rank, world_size) for rank in range(world_size)]
    joined = join_batches(shares)
    for name, array in vars(whole).items():
        assert (vars(joined)[name] == array).all()
        assert joined.n_rows == n_rows
    sizes = [share.n_rows for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sum(share.n_targets for share in shares) == whole.n_targets


@given(lengths=LENGTHS, config=CONFIGS, n_rows=st.integers(1, 9), n_epochs=st.integers(1, 3))
def test_batches_across_epoch_borders_see_each_pair_once_an_epoch(
    stream_of, lengths, config, n_rows, n_epochs
):
    """C17: the batches need not divide the epoch."""
    stream = stream_of(lengths, config)
    total = n_epochs * stream.rows_per_epoch
    batches = [stream.rows(at, min(n_rows, total - at)) for at in range(0, total, n_rows)]
    counted = Counter(pair for batch in batches for pair in pairs_of(batch))
    assert counted == Counter(dict.fromkeys(all_pairs(stream.split), n_epochs))


@given(lengths=LENGTHS, config=CONFIGS, stop=st.integers(-1, 1), n_rows=st.integers(1, 5))
def test_a_stream_made_anew_goes_on_at_any_row(stream_of, lengths, config, stop, n_rows):
    """C17: one row before, at and after the border of an epoch; there is no state to lose."""
    stream = stream_of(lengths, config)
    first = stream.rows_per_epoch + stop
    stream.rows(0, first)
    expected = stream.rows(first, n_rows)
    found = RowStream(stream.split, config, SPLIT_BOS).rows(first, n_rows)
    for name, array in vars(expected).items():
        assert (vars(found)[name] == array).all()


def test_epochs_have_their_own_orders(stream_of):
    stream = stream_of([9] * 20, DataConfig(seq_len=8, n_lanes=1))
    n = stream.rows_per_epoch
    epochs = [stream.rows(epoch * n, n) for epoch in range(3)]
    orders = {tuple(dict.fromkeys(epoch.document_ids.ravel().tolist())) for epoch in epochs}
    assert len(orders) == 3


def test_epochs_of_best_fit_rows_may_differ_in_number(stream_of, monkeypatch):
    """C17: with windows of two documents their order decides how many rows there are."""
    monkeypatch.setattr(best_fit, "WINDOW_DOCUMENTS", 2)
    monkeypatch.setattr(packing, "link_tails", functools.partial(best_fit.link_tails, window=2))
    monkeypatch.setattr(stream_module, "WINDOW_DOCUMENTS", 2)
    config = DataConfig(seq_len=8, packing="best-fit", n_lanes=3)
    stream = stream_of([3, 4, 9, 7, 8, 2, 30, 6, 5], config)
    sizes = [stream.plan(epoch).n_rows for epoch in range(12)]
    assert len(set(sizes)) > 1
    counted = Counter(pairs_of(stream.rows(0, sum(sizes))))
    assert counted == Counter(dict.fromkeys(all_pairs(stream.split), 12))
    for first in (sum(sizes[:5]) - 1, sum(sizes[:5]), sum(sizes[:11])):
        expected = stream.rows(first, 3)
        found = RowStream(stream.split, config, SPLIT_BOS).rows(first, 3)
        assert (found.tokens == expected.tokens).all()
        assert stream.n_targets(first, 3) == expected.n_targets


@given(lengths=LENGTHS, seq_len=st.integers(2, 20), epoch=st.integers(1, 5))
def test_within_one_window_every_epoch_has_as_many_rows(stream_of, lengths, seq_len, epoch):
    stream = stream_of(lengths, DataConfig(seq_len=seq_len, packing="best-fit"))
    assert stream.plan(epoch).n_rows == stream.rows_per_epoch


@pytest.mark.parametrize("packing", ["concat", "padded", "best-fit"])
@pytest.mark.parametrize("n_tokens", [2, 7, 8, 9, 10])
@pytest.mark.timeout(20)
def test_a_split_shorter_than_a_batch_is_read_over_and_over(stream_of, packing, n_tokens):
    """T18: 2, T - 1, T, T + 1, T + 2 tokens; never an endless loop."""
    stream = stream_of([n_tokens], DataConfig(seq_len=8, packing=packing))
    assert stream.rows_per_epoch == -(-(n_tokens - 1) // 8)
    batch = stream.rows(3, 12)
    assert batch.n_targets == stream.n_targets(3, 12)
    assert batch.n_targets * stream.rows_per_epoch == 12 * (n_tokens - 1)


@pytest.mark.timeout(20)
def test_a_split_without_a_pair_is_refused(stream_of):
    """T18: 0 tokens."""
    with pytest.raises(DataError, match="holds 0 tokens in 0 documents") as caught:
        stream_of([], DataConfig(seq_len=8))
    assert caught.value.fix


def test_a_document_of_one_token_is_refused_when_the_split_is_opened(tmp_path):
    """T18: 1 token cannot be a document with BOS and EOS."""
    from ladderlm.data.shard_writer import SplitWriter
    from ladderlm.data.shards import PreparedData

    writer = SplitWriter(tmp_path, "train", np.dtype("<u2"))
    writer.add(np.array([1]), 0, "a")
    tokenizer = {"vocab_size": 9, "bos_id": 1, "eos_id": 2, "fingerprint": "f"}
    manifest = {"tokenizer": tokenizer, "dtype": "<u2", "splits": {"train": writer.finish({})}}
    with pytest.raises(DataError, match="damaged"):
        PreparedData(tmp_path, manifest).split("train")


def test_a_row_by_hand(stream_of):
    stream = stream_of([4, 3], DataConfig(seq_len=7, n_lanes=1))
    batch = stream.rows(0, 1)
    a, b = [1, 3, 4, 2], [1, 5, 2]
    if batch.document_ids[0, 0] == 1:
        a, b = b, a
    assert batch.tokens[0].tolist() == [*a[:-1], *b[:-1], 0, 0]
    assert batch.targets[0].tolist() == [*a[1:], *b[1:], 0, 0]
    assert batch.loss_mask[0].tolist() == [True] * 5 + [False] * 2
    assert batch.positions[0].tolist() == [*range(len(a) - 1), *range(len(b) - 1), 0, 0]
    assert batch.segment_ids[0].tolist() == [0] * (len(a) - 1) + [1] * (len(b) - 1) + [-1] * 2


def test_the_text_can_be_read_back_from_the_rows(tiny_data, tiny_tokenizer):
    """From the raw document to the batch: what is trained on decodes to the documents."""
    data = open_data(tiny_data)
    split = data.split("val")
    for policy, seq_len in (("concat", 16), ("padded", 16), ("best-fit", 512)):
        config = DataConfig(seq_len=seq_len, packing=policy, split="val", n_lanes=1)
        stream = RowStream(split, config, data.bos_id)
        batch = stream.rows(0, stream.rows_per_epoch)
        for document in range(split.n_documents):
            own = batch.document_ids == document
            text = tiny_tokenizer.decode(batch.targets[own].tolist())
            expected = tiny_tokenizer.decode(split.document(document).tolist())
            assert text == expected
            assert len(text.encode()) == split.n_bytes[document]


def test_an_empty_batch_has_rows_of_no_documents(stream_of):
    stream = stream_of([5], DataConfig(seq_len=4))
    batch = stream.rows(0, 1, rank=2, world_size=3)  # fewer rows than processes
    assert batch.n_rows == 0
    assert batch.n_targets == 0
    assert batch.tokens.shape == (0, 4)


def batch_of(tokens, targets):
    tokens, targets = np.array(tokens), np.array(targets)
    ones = np.ones_like(tokens)
    return Batch(tokens, targets, ones.astype(bool), 0 * ones, ones, ones)


@pytest.mark.parametrize(
    ("tokens", "targets", "named"),
    [([[0, 9]], [[1, 2]], 9), ([[0, 1]], [[1, 9]], 9), ([[-1, 1]], [[1, 2]], -1)],
)
def test_ids_without_a_row_in_the_model_are_refused_by_number(tokens, targets, named):
    """T17: before an embedding is indexed out of its bounds."""
    batch_of([[0, 8]], [[8, 0]]).check_vocabulary(9)
    with pytest.raises(DataError, match=rf"must be in \[0, 9\), a batch holds {named}\n"):
        batch_of(tokens, targets).check_vocabulary(9)


def test_rows_of_a_batch_are_views_and_joining_undoes_cutting(stream_of):
    stream = stream_of([9, 5, 12], DataConfig(seq_len=4))
    batch = stream.rows(0, 5)
    parts = [batch.rows(0, 2), batch.rows(2, 2), batch.rows(2, 5)]
    assert [part.n_rows for part in parts] == [2, 0, 3]
    assert parts[0].tokens.base is not None
    joined = join_batches(parts)
    for name, array in vars(batch).items():
        assert (vars(joined)[name] == array).all()


def test_pieces_longer_than_the_row_cannot_be_filled_in_silently(stream_of):
    from ladderlm.data.packing import Segment

    stream = stream_of([9], DataConfig(seq_len=4))
    with pytest.raises(ValueError, match="broadcast"):
        fill_rows(stream.split, [[Segment(0, 0, 6)]], 4, SPLIT_BOS)
