"""Rows of an epoch: every pair of neighbours once, whatever the lengths."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.data.config import DataConfig
from ladderlm.data.packing import PackingReport, Segment, document_order, plan_epoch

LENGTHS = st.lists(st.integers(2, 40), max_size=15)
IN_ORDER = st.sampled_from(["concat", "padded"])
POLICIES = st.sampled_from(["concat", "padded", "best-fit"])
LANES = st.integers(1, 20)


def plan(lengths, seq_len, policy, n_lanes=1, order_seed=1, epoch=0):
    config = DataConfig(seq_len=seq_len, packing=policy, n_lanes=n_lanes, order_seed=order_seed)
    return plan_epoch(np.array(lengths, dtype=np.int64), config, epoch)


def naive_rows(lengths, order, seq_len, policy):
    """Lay pairs (document, place of the input) out one by one and cut."""
    documents = [[(int(d), i) for i in range(lengths[d] - 1)] for d in order]
    runs = [list(chain(*documents))] if policy == "concat" else documents
    return [run[at : at + seq_len] for run in runs for at in range(0, len(run), seq_len)]


def pairs_of(pieces):
    return [(p.document, p.start + i) for p in pieces for i in range(p.n_tokens)]


@given(lengths=LENGTHS, seq_len=st.integers(2, 32), policy=IN_ORDER, seed=st.integers(0, 99))
def test_rows_equal_those_of_laying_out_pairs_one_by_one(lengths, seq_len, policy, seed):
    epoch = plan(lengths, seq_len, policy, order_seed=seed)
    expected = naive_rows(lengths, document_order(len(lengths), seed, 0), seq_len, policy)
    assert [pairs_of(epoch.row(i)) for i in range(epoch.n_rows)] == expected


@given(lengths=LENGTHS, seq_len=st.integers(2, 32), policy=POLICIES, n_lanes=LANES)
def test_every_pair_stands_in_exactly_one_row(lengths, seq_len, policy, n_lanes):
    """No token lost, doubled or scored twice."""
    epoch = plan(lengths, seq_len, policy, n_lanes)
    rows = [epoch.row(i) for i in range(epoch.n_rows)]
    found = [pair for row in rows for pair in pairs_of(row)]
    assert sorted(found) == [(d, i) for d, n in enumerate(lengths) for i in range(n - 1)]
    for row in rows:
        assert 1 <= sum(piece.n_tokens for piece in row) <= seq_len
        assert all(piece.n_tokens >= 1 for piece in row)
        assert len({piece.document for piece in row}) == len(row)
        assert policy != "padded" or len(row) == 1


@given(lengths=LENGTHS.filter(len), seq_len=st.integers(2, 32), n_lanes=LANES)
def test_packed_rows_are_full_but_for_one(lengths, seq_len, n_lanes):
    epoch = plan(lengths, seq_len, "concat", n_lanes)
    sizes = [sum(piece.n_tokens for piece in epoch.row(i)) for i in range(epoch.n_rows)]
    assert sorted(sizes)[1:] == [seq_len] * (epoch.n_rows - 1)


@given(lengths=LENGTHS, seq_len=st.integers(2, 32))
def test_padded_rows_begin_each_document_anew(lengths, seq_len):
    epoch = plan(lengths, seq_len, "padded")
    pieces = [piece for i in range(epoch.n_rows) for piece in epoch.row(i)]
    assert sorted(p.document for p in pieces if p.start == 0) == list(range(len(lengths)))
    for piece in pieces:
        assert piece.start % seq_len == 0
        assert piece.n_tokens == min(seq_len, lengths[piece.document] - 1 - piece.start)


@given(lengths=LENGTHS, seq_len=st.integers(2, 32), seed=st.integers(0, 9), n_lanes=LANES)
def test_best_fit_rows_cut_a_document_only_where_a_row_ends(lengths, seq_len, seed, n_lanes):
    """Each document is whole rows and one last piece, and stands near its place in the order."""
    epoch = plan(lengths, seq_len, "best-fit", n_lanes, order_seed=seed)
    turn = {document: at for at, document in enumerate(epoch.order.tolist())}
    rows = [epoch.row(i) for i in range(epoch.n_rows)]
    for row in rows:
        for piece in row:
            assert piece.start % seq_len == 0
            assert piece.n_tokens == min(seq_len, lengths[piece.document] - 1 - piece.start)
        turns = [turn[piece.document] for piece in row]
        assert turns == sorted(turns)
    one_lane = plan(lengths, seq_len, "best-fit", order_seed=seed)
    firsts = [turn[one_lane.row(i)[0].document] for i in range(one_lane.n_rows)]
    assert firsts == sorted(firsts)


@given(lengths=LENGTHS, seq_len=st.integers(2, 32))
def test_best_fit_needs_no_more_rows_than_padding_and_no_two_rows_could_be_one(lengths, seq_len):
    sizes = {}
    for policy in ("padded", "best-fit"):
        epoch = plan(lengths, seq_len, policy)
        sizes[policy] = [sum(p.n_tokens for p in epoch.row(i)) for i in range(epoch.n_rows)]
    assert len(sizes["best-fit"]) <= len(sizes["padded"])
    two = sorted(sizes["best-fit"])[:2]
    assert len(two) < 2 or sum(two) > seq_len


@given(
    lengths=st.lists(st.integers(0, 40), max_size=15), seq_len=st.integers(2, 32), policy=POLICIES
)
def test_a_report_counts_what_stands_in_the_rows(lengths, seq_len, policy):
    epoch = plan(lengths, seq_len, policy, n_lanes=3)
    rows = [epoch.row(i) for i in range(epoch.n_rows)]
    sizes = [sum(piece.n_tokens for piece in row) for row in rows]
    pieces = Counter(piece.document for row in rows for piece in row)
    cut = [document for document, n in pieces.items() if n > 1]
    report = PackingReport.of([epoch])
    assert epoch.fill_counts().tolist() == np.bincount(sizes, minlength=seq_len + 1).tolist()
    assert (report.n_rows, report.n_places) == (len(rows), len(rows) * seq_len)
    assert (report.n_pairs, report.n_documents) == (sum(sizes), len(pieces))
    assert report.n_pieces == sum(pieces.values())
    assert report.n_cut == len(cut)
    assert report.n_cut_needlessly == sum(lengths[document] - 1 <= seq_len for document in cut)
    assert policy == "concat" or report.n_cut_needlessly == 0
    if rows:
        assert report.waste == pytest.approx(1 - sum(sizes) / (len(rows) * seq_len))
        assert report.documents_per_row == pytest.approx(sum(map(len, rows)) / len(rows))
        assert report.tokens_per_document == pytest.approx(sum(sizes) / len(pieces))
        assert report.tokens_per_piece == pytest.approx(sum(sizes) / report.n_pieces)


def test_a_report_of_nothing_has_no_rates_to_divide_by():
    report = PackingReport.of([plan([], 8, "best-fit")])
    assert (report.waste, report.tokens_per_document, report.documents_per_row) == (0, 0, 0)


@given(n_rows=st.integers(1, 300), n_lanes=st.integers(1, 400))
def test_lanes_visit_each_place_once_and_keep_their_order(n_rows, n_lanes):
    epoch = plan([n_rows * 2 + 1], 2, "concat", n_lanes)
    places = [epoch.place(i) for i in range(epoch.n_rows)]
    assert sorted(places) == list(range(n_rows))
    lanes = min(n_lanes, n_rows)
    firsts = sorted(places[:lanes])
    borders = [b - a for a, b in zip(firsts, [*firsts[1:], n_rows], strict=True)]
    assert max(borders) - min(borders) <= 1  # equal runs, give or take one row
    whole = places[: n_rows // lanes * lanes]
    for lane in range(lanes):
        own = whole[lane::lanes]
        assert own == list(range(own[0], own[0] + len(own)))
    assert (
        set(places[len(whole) :])
        == {  # the longer lanes' last rows
            end - 1
            for begin, end in zip(firsts, [*firsts[1:], n_rows], strict=True)
            if end - begin > n_rows // lanes
        }
    )


@pytest.mark.parametrize(("n_lanes", "least"), [(40, 24), (1000, 40), (4096, 40)])
def test_rows_that_are_read_together_lie_far_apart_for_any_number_of_lanes(n_lanes, least):
    """Of ten rows of an epoch of 1,000 that are read in turn no two are near."""
    epoch = plan([2001], 2, "concat", n_lanes)
    for first in range(0, 900, 45):
        places = sorted(epoch.place(first + i) for i in range(10))
        apart = [b - a for a, b in zip(places, [*places[1:], places[0] + 1000], strict=True)]
        assert min(apart) >= least


def test_with_lanes_the_rows_of_a_batch_come_from_different_documents():
    epoch = plan([1000] * 8, 10, "concat", n_lanes=8)
    first = [epoch.row(i)[0].document for i in range(8)]
    assert len(set(first)) >= 7
    alone = plan([1000] * 8, 10, "concat", n_lanes=1)
    assert len({alone.row(i)[0].document for i in range(8)}) == 1


@given(n=st.integers(0, 60), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
def test_an_order_is_a_permutation_and_a_pure_function(n, seed, epoch):
    order = document_order(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert (order == document_order(n, seed, epoch)).all()


def test_seeds_and_epochs_give_other_orders():
    orders = {tuple(document_order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(lengths=LENGTHS, sizes=st.lists(st.integers(2, 32), min_size=2, max_size=2))
def test_the_order_of_documents_depends_on_neither_packing_nor_row_length_nor_tokenizer(
    lengths, sizes
):
    """Contract, section 3: arms stay paired."""
    expected = document_order(len(lengths), 7, 3).tolist()
    longer = [2 * length for length in lengths]  # the same documents in another tokenizer
    for policy in ("concat", "padded"):
        for seq_len in sizes:
            for own in (lengths, longer):
                epoch = plan(own, seq_len, policy, order_seed=7, epoch=3)
                seen = [p.document for i in range(epoch.n_rows) for p in epoch.row(i)]
                assert list(dict.fromkeys(seen)) == expected


def test_the_order_is_pinned():
    """Changing how it is drawn would make every recorded run another run."""
    assert document_order(8, 1, 0).tolist() == [5, 0, 1, 4, 2, 6, 3, 7]


@pytest.mark.parametrize("policy", ["concat", "padded", "best-fit"])
@pytest.mark.parametrize("lengths", [[], [0], [1], [1, 0, 1]])
def test_nothing_to_train_on_gives_no_rows(lengths, policy):
    """T18."""
    assert plan(lengths, 8, policy).n_rows == 0


@pytest.mark.parametrize(
    ("n_tokens", "concat", "padded"),
    [(2, [1], [1]), (7, [6], [6]), (8, [7], [7]), (9, [8], [8]), (10, [8, 1], [8, 1])],
)
def test_one_document_about_as_long_as_a_row(n_tokens, concat, padded):
    """T18: T - 1, T, T + 1 and T + 2 tokens in rows of T = 8."""
    for policy, expected in (("concat", concat), ("padded", padded), ("best-fit", padded)):
        epoch = plan([n_tokens], 8, policy, n_lanes=256)
        sizes = [sum(p.n_tokens for p in epoch.row(i)) for i in range(epoch.n_rows)]
        assert sizes == expected


def test_a_row_by_hand():
    epoch = plan([4, 6], 4, "concat", order_seed=0)
    a, b = document_order(2, 0, 0)
    rows = {
        (0, 1): [[Segment(0, 0, 3), Segment(1, 0, 1)], [Segment(1, 1, 4)]],
        (1, 0): [[Segment(1, 0, 4)], [Segment(1, 4, 1), Segment(0, 0, 3)]],
    }[int(a), int(b)]
    assert [epoch.row(0), epoch.row(1)] == rows


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["concat", "padded", "best-fit"])
@pytest.mark.parametrize("seq_len", [64, 500])
def test_three_hundred_thousand_documents_lose_and_double_nothing(policy, seq_len):
    """Several windows of best-fit: each pair of each document stands in one place."""
    rng = np.random.default_rng(2)
    lengths = np.clip(np.exp(rng.normal(4, 1.3, 300_000)), 2, 5000).astype(np.int64)
    epoch = plan(lengths, seq_len, policy, n_lanes=256)
    borders = np.concatenate([[0], np.cumsum(lengths - 1)])
    seen = np.zeros(borders[-1] + 1, dtype=np.int64)  # +1 where a piece begins, -1 where it ends
    fills = np.zeros(seq_len + 1, dtype=np.int64)
    for index in range(epoch.n_rows):
        row = epoch.row(index)
        fills[sum(piece.n_tokens for piece in row)] += 1
        for piece in row:
            seen[borders[piece.document] + piece.start] += 1
            seen[borders[piece.document] + piece.start + piece.n_tokens] -= 1
    assert (np.cumsum(seen)[:-1] == 1).all()
    assert (fills == epoch.fill_counts()).all()
    assert policy != "best-fit" or PackingReport.of([epoch]).waste < 2e-3
