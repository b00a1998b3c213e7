"""Best-fit-decreasing packing of what is left of documents after whole rows were cut off.

Owns the algorithm over one window of documents and its walk over all windows. Only lengths come
in and links between documents come out; what a row is, is told in `packing.py`.

Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3. We differ in
that the paper sorts the whole corpus: here windows of `WINDOW_DOCUMENTS` of the seeded order are
packed one by one, so that the working memory is bounded and documents stay near their place in
the order. Items of one length are placed together, which gives the rows of the item-by-item
algorithm in far fewer steps.
"""

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

__all__ = ["WINDOW_DOCUMENTS", "heads_of", "link_tails", "pack_window"]

WINDOW_DOCUMENTS = 1 << 16  # part of what the policy means: another number gives other rows


def pack_window(lengths: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Put items into rows: longest first, each where the least room is left that still holds it.

    Args:
        lengths: (n,) of the items, each in 1 .. room.
        room: tokens a row holds.

    Returns:
        (n,) number of the row of each item, 0, 1, ... in the order in which rows were opened.
        Equal lengths keep their order; of rows with equal room the first one is used.
    """
    by_length = np.argsort(-lengths, kind="stable")
    borders = np.flatnonzero(np.diff(lengths[by_length], prepend=-1, append=-1))
    rows = np.empty(len(lengths), dtype=np.int64)
    open_rows: dict[int, list[NDArray[np.int64]]] = {}  # room left -> rows, oldest first
    rooms: list[int] = []  # keys of open_rows, ascending
    n_rows = 0

    def keep(left: int, kept: NDArray[np.int64]) -> None:
        if left == 0 or len(kept) == 0:
            return
        if left not in open_rows:
            insort(rooms, left)
            open_rows[left] = []
        open_rows[left].append(kept)

    for at, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        length = int(lengths[by_length[at]])
        while at < end:
            fitting = bisect_left(rooms, length)
            left = rooms.pop(fitting) if fitting < len(rooms) else room
            n_each = left // length  # a row just used has the least room, so it is used up first
            n_needed = -(-(end - at) // n_each)
            if left in open_rows:  # never of a new row: the room kept there is smaller
                held = open_rows.pop(left)
                candidates = held[0] if len(held) == 1 else np.concatenate(held)
                keep(left, candidates[n_needed:])
            else:
                candidates = np.arange(n_rows, n_rows + n_needed)
                n_rows += n_needed
            taken = candidates[:n_needed]
            n_placed = min(end - at, len(taken) * n_each)
            rows[by_length[at : at + n_placed]] = np.repeat(taken, n_each)[:n_placed]
            n_full, rest = divmod(n_placed, n_each)
            keep(left - n_each * length, taken[:n_full])
            keep(left - rest * length, taken[n_full : n_full + (rest > 0)])
            at += n_placed
    return rows


def link_tails(
    tails: NDArray[np.int64], room: int, window: int = WINDOW_DOCUMENTS
) -> NDArray[np.int32]:
    """Pack the tails of documents, window by window.

    Args:
        tails: (n_documents,) tokens to place of each document in turn, below `room`; 0: none.
        room: tokens a row holds.
        window: documents that are packed together.

    Returns:
        (n_documents,) how many documents further on the next one of the same row stands, 0 at its
        end. Following the links from each of `heads_of` visits each tail exactly once.
    """
    links = np.zeros(len(tails), dtype=np.int32)
    for begin in range(0, len(tails), window):
        places = begin + np.flatnonzero(tails[begin : begin + window])
        rows = pack_window(tails[places], room)
        by_row = np.argsort(rows, kind="stable")
        members, rows = places[by_row], rows[by_row]
        follows = rows[1:] == rows[:-1]
        links[members[:-1][follows]] = np.diff(members)[follows]
    return links


def heads_of(tails: NDArray[np.int64], links: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return for each document whether its tail is the first of a row: no link leads to it."""
    heads = tails > 0
    linking = np.flatnonzero(links)
    heads[linking + links[linking]] = False
    return heads
