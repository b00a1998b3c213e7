"""Best-fit-decreasing: the rows of the plain algorithm, every tail once, few places wasted."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.data.best_fit import WINDOW_DOCUMENTS, heads_of, link_tails, pack_window


def pack_plainly(lengths, room):
    """Put one item after the other into the fullest row that holds it; oldest such row first."""
    left, arrived, row_of = [], [], {}
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [r for r in range(len(left)) if left[r] >= lengths[item]]
        if fitting:
            row = min(fitting, key=lambda r: (left[r], arrived[r]))
        else:
            row = len(left)
            left.append(room)
            arrived.append(0)
        left[row] -= lengths[item]
        arrived[row] = len(row_of)
        row_of[item] = row
    return [row_of[item] for item in range(len(lengths))]


@given(data=st.data(), room=st.integers(1, 40))
def test_rows_are_those_of_placing_items_one_by_one(data, room):
    lengths = data.draw(st.lists(st.integers(1, room), max_size=40))
    found = pack_window(np.array(lengths, dtype=np.int64), room)
    assert found.tolist() == pack_plainly(lengths, room)


def test_many_equal_lengths_are_placed_like_one_by_one():
    rng = np.random.default_rng(3)
    lengths = rng.choice([1, 2, 3, 5, 7, 11, 16], 600)
    assert pack_window(lengths, 16).tolist() == pack_plainly(lengths.tolist(), 16)


@given(data=st.data(), room=st.integers(2, 30), window=st.integers(1, 12))
def test_links_visit_every_tail_once_and_stay_within_a_window(data, room, window):
    tails = np.array(data.draw(st.lists(st.integers(0, room - 1), max_size=40)), dtype=np.int64)
    links = link_tails(tails, room, window)
    heads = heads_of(tails, links)
    seen = []
    for head in np.flatnonzero(heads).tolist():
        at, row = head, [head]
        while links[at]:
            at += int(links[at])
            row.append(at)
        assert sum(tails[row]) <= room
        assert {place // window for place in row} == {head // window}
        seen += row
    assert sorted(seen) == np.flatnonzero(tails).tolist()


def test_few_places_are_wasted_on_documents_of_every_length():
    """Lengths spread over three orders of magnitude: fewer than 1 place in 1,000 stays empty."""
    rng = np.random.default_rng(0)
    tails = np.exp(rng.normal(6, 1.4, 20_000)).astype(np.int64) % 512
    heads = heads_of(tails, link_tails(tails, 512))
    assert 0 < 1 - tails.sum() / (heads.sum() * 512) < 1e-3


def test_the_rows_are_pinned():
    """Another algorithm or window would make every recorded best-fit run another run."""
    tails = np.random.default_rng(1).integers(0, 100, WINDOW_DOCUMENTS + 5000)
    links = link_tails(tails, 100)
    heads = heads_of(tails, links)
    digest = hashlib.sha256(heads.tobytes() + links.astype("<i4").tobytes()).hexdigest()
    assert digest[:16] == "82fc4d1dc8e8f394"
