"""Best-fit-decreasing packing of the tails of documents, after whole rows were cut off.

Owns the algorithm over one window of documents and the loop over all windows. It takes lengths and
returns links between documents; `packing.py` makes rows of them.

Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3. The paper sorts
the whole corpus. Here windows of `WINDOW_DOCUMENTS` of the seeded order are packed one by one, so
that memory is bounded and documents stay near their place in the order. Items of equal length are
placed together, which gives the same rows as placing them one by one, in far fewer steps.
"""

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

__all__ = ["WINDOW_DOCUMENTS", "heads_of", "link_tails", "pack_window"]

WINDOW_DOCUMENTS = 1 << 16  # part of the policy: another number gives other rows


def pack_window(lengths: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Put items into rows: longest first, each into the fullest row that still has room for it.

    Args:
        lengths: (n,), each in 1 .. room.
        room: tokens per row.

    Returns:
        (n,) row number of each item, 0, 1, ... in the order in which rows were opened. Items of
        equal length keep their order; among rows with equal room the oldest is used.
    """
    by_length = np.argsort(-lengths, kind="stable")
    borders = np.flatnonzero(np.diff(lengths[by_length], prepend=-1, append=-1))
    rows = np.empty(len(lengths), dtype=np.int64)
    open_rows: dict[int, list[NDArray[np.int64]]] = {}  # room left -> rows, oldest first
    rooms: list[int] = []  # keys of open_rows, ascending
    n_rows = 0

    def keep(left: int, kept: NDArray[np.int64]) -> None:
        if left and len(kept):
            if left not in open_rows:
                insort(rooms, left)
            open_rows.setdefault(left, []).append(kept)

    for at, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        length = int(lengths[by_length[at]])
        while at < end:
            fitting = bisect_left(rooms, length)
            left = rooms.pop(fitting) if fitting < len(rooms) else room
            n_each = left // length  # the row used last has the least room, so it is filled first
            n_needed = -(-(end - at) // n_each)
            if left in open_rows:  # never for a new row: open rows have less room
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
        tails: (n_documents,) tokens of each document to place, below `room`; 0: none.
        room: tokens per row.
        window: documents that are packed together.

    Returns:
        (n_documents,) distance from each document to the next one in the same row, 0 for the last.
        Following the links from each of `heads_of` visits each tail exactly once.
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
    """Return which documents have the first tail of a row, to which no link leads."""
    heads = tails > 0
    linking = np.flatnonzero(links)
    heads[linking + links[linking]] = False
    return heads
