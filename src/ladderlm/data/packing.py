"""Assign tokens to rows.

Owns the seeded order of documents and the packing policies of training. A plan is a pure function
of (document lengths, order seed, epoch, row length, policy) and has no state. Reads no files.
`best_fit.py` computes how tails of documents share rows.
"""

import functools
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.best_fit import heads_of, link_tails
from ladderlm.data.config import DataConfig, Packing

__all__ = ["EpochPlan", "PackingReport", "Segment", "document_order", "find_row", "plan_epoch"]


@dataclass(frozen=True)
class Segment:
    """A run of consecutive tokens of one document in a row.

    Args:
        document: index of the document in its split.
        start: first input token, counted from the document's BOS.
        n_tokens: input tokens. The targets are the same run shifted by one, so the last input
            token is never the document's EOS.
    """

    document: int
    start: int
    n_tokens: int


def document_order(n_documents: int, order_seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of documents in one epoch, a permutation drawn from (order_seed, epoch).

    It depends on nothing else, so every tokenizer and packing sees the same order.
    """
    return np.random.default_rng([order_seed, epoch]).permutation(n_documents).astype(np.int64)


@dataclass(frozen=True)
class PackingReport:
    """Counts of documents, (input, target) pairs and rows of an epoch under a policy.

    Args:
        n_documents: documents with at least one pair.
        n_pairs: pairs of all documents, each in one place of one row.
        n_places: rows times their length.
        n_pieces: unbroken runs of one document.
        n_cut: documents in more than one piece.
        n_cut_needlessly: cut documents that would fit in one row.
    """

    n_documents: int
    n_pairs: int
    n_rows: int
    n_places: int
    n_pieces: int
    n_cut: int
    n_cut_needlessly: int

    @classmethod
    def of(cls, plans: "Sequence[EpochPlan]") -> "PackingReport":
        """Count over one plan, or over plans of different documents."""
        counts = np.zeros(7, dtype=np.int64)
        for plan in plans:
            n_pairs, n_pieces = plan.n_pairs, plan.pieces_by_document()
            cut = n_pieces > 1
            counts += (
                int((n_pairs > 0).sum()),
                int(n_pairs.sum()),
                plan.n_rows,
                plan.n_rows * plan.seq_len,
                int(n_pieces.sum()),
                int(cut.sum()),
                int((cut & (n_pairs <= plan.seq_len)).sum()),
            )
        return cls(*counts.tolist())

    @property
    def waste(self) -> float:
        """Fraction of the places that is padding."""
        return 1 - self.n_pairs / self.n_places if self.n_places else 0.0

    @property
    def tokens_per_document(self) -> float:
        """Mean input tokens per document."""
        return self.n_pairs / max(self.n_documents, 1)

    @property
    def tokens_per_piece(self) -> float:
        """Mean input tokens per piece, the context that packing leaves."""
        return self.n_pairs / max(self.n_pieces, 1)

    @property
    def documents_per_row(self) -> float:
        """Mean pieces per row."""
        return self.n_pieces / max(self.n_rows, 1)

    def as_dict(self) -> dict[str, float]:
        """Return counts and rates for JSON."""
        rates = ("waste", "tokens_per_document", "tokens_per_piece", "documents_per_row")
        return vars(self) | {name: getattr(self, name) for name in rates}


@dataclass(frozen=True)
class EpochPlan:
    """Rows of one epoch.

    A document of L tokens (with BOS and EOS) has L - 1 (input, target) pairs. `concat` lays the
    pairs of all documents end to end and cuts every `seq_len`, so every row but the last is full.
    `padded` begins each document in a row of its own and continues long ones in further rows.
    `best-fit` does the same, but the last pieces of documents share rows (see `best_fit.py`); a
    shared row has the place of its first document.

    Args:
        order: (n_documents,) indices of documents.
        ends: running total of pairs (concat) or rows (others) after each document of `order`.
        n_pairs: pairs of each document of `order`.
        seq_len: T.
        n_lanes: places of the epoch that are read in turn, see `place`.
        links: for best-fit, distance in `order` to the next document of a shared row; 0: none.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    n_pairs: NDArray[np.int64]
    seq_len: int
    policy: Packing
    n_lanes: int
    links: NDArray[np.int32] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows; 0 only if there is nothing to train on."""
        total = int(self.ends[-1]) if len(self.ends) else 0
        return -(-total // self.seq_len) if self.policy == "concat" else total

    def place(self, index: int) -> int:
        """Return the place in packing order of the row that is read as number `index`.

        The epoch is split into `n_lanes` runs of equal length (up to one row). One row of each run
        is read in turn, and consecutive reads come from distant runs, so a batch mixes documents
        even if each fills many rows. The mapping is a bijection of 0 .. n_rows - 1.
        """
        n_lanes = min(self.n_lanes, self.n_rows)
        length, rest = divmod(self.n_rows, n_lanes)
        depth, turn = divmod(index, n_lanes)
        # The last round reads the remainder of the division, which the first lanes hold.
        lane = turn if depth == length else turn * _lane_stride(n_lanes) % n_lanes
        return lane * length + min(lane, rest) + depth

    def row(self, index: int) -> list[Segment]:
        """Return the pieces of the row read as number `index`, in order."""
        place = self.place(index)
        return self._row_concat(place) if self.policy == "concat" else self._row_of_one(place)

    def _row_concat(self, index: int) -> list[Segment]:
        begin, end = index * self.seq_len, (index + 1) * self.seq_len
        at = int(np.searchsorted(self.ends, begin, side="right"))
        pieces = []
        while begin < end and at < len(self.order):
            document_begin = int(self.ends[at] - self.n_pairs[at])
            n_tokens = min(end, int(self.ends[at])) - begin
            if n_tokens > 0:
                pieces.append(Segment(int(self.order[at]), begin - document_begin, n_tokens))
            begin += n_tokens
            at += 1
        return pieces

    def _row_of_one(self, index: int) -> list[Segment]:
        """Return a full row of a long document, or its last piece and those linked to it."""
        at = int(np.searchsorted(self.ends, index, side="right"))
        start = (index - (int(self.ends[at - 1]) if at else 0)) * self.seq_len
        n_tokens = min(self.seq_len, int(self.n_pairs[at]) - start)
        pieces = [Segment(int(self.order[at]), start, n_tokens)]
        if self.links is not None and n_tokens < self.seq_len:
            while self.links[at]:
                at += int(self.links[at])
                tail = int(self.n_pairs[at]) % self.seq_len
                pieces.append(Segment(int(self.order[at]), int(self.n_pairs[at]) - tail, tail))
        return pieces

    def fill_counts(self) -> NDArray[np.int64]:
        """Return (T + 1,) counts of rows; entry n counts rows of n tokens."""
        counts = np.zeros(self.seq_len + 1, dtype=np.int64)
        if self.policy == "concat":
            n_full, rest = divmod(int(self.n_pairs.sum()), self.seq_len)
            counts[self.seq_len] = n_full
            counts[rest] += rest > 0
            return counts
        tails = self.n_pairs % self.seq_len
        counts[self.seq_len] = (self.n_pairs // self.seq_len).sum()
        at = np.flatnonzero(np.diff(self.ends, prepend=0) > self.n_pairs // self.seq_len)
        fills, open_rows = tails[at], np.arange(len(at))
        while self.links is not None and len(open_rows):
            linked = self.links[at] > 0
            open_rows, at = open_rows[linked], (at + self.links[at])[linked]
            fills[open_rows] += tails[at]
        return counts + np.bincount(fills, minlength=self.seq_len + 1)

    def pieces_by_document(self) -> NDArray[np.int64]:
        """Count the pieces of each document of `order`."""
        if self.policy != "concat":
            return -(-self.n_pairs // self.seq_len)
        first, last = (self.ends - self.n_pairs) // self.seq_len, (self.ends - 1) // self.seq_len
        return np.where(self.n_pairs > 0, last - first + 1, 0)


@functools.lru_cache(maxsize=16)
def _lane_stride(n_lanes: int) -> int:
    """Return the number coprime to `n_lanes` that is nearest to its golden section.

    Its multiples modulo `n_lanes` are spread evenly (Weyl's sequence), so lanes that are read one
    after another are far apart.
    """
    middle = max(round(n_lanes * (math.sqrt(5) - 1) / 2), 1)
    return next(
        stride
        for away in range(n_lanes)
        for stride in (middle + away, middle - away)
        if stride > 0 and math.gcd(stride, n_lanes) == 1
    )


def plan_epoch(
    document_lengths: NDArray[np.int64],
    config: DataConfig,
    epoch: int,
    link: Callable[[NDArray[np.int64], int], NDArray[np.int32]] | None = None,
) -> EpochPlan:
    """Plan one epoch.

    Args:
        document_lengths: tokens of each document of the split, with BOS and EOS.
        link: returns the links of best-fit from tails and `seq_len`; None: `link_tails`.
    """
    order = document_order(len(document_lengths), config.order_seed, epoch)
    n_pairs, seq_len, links = np.maximum(document_lengths[order] - 1, 0), config.seq_len, None
    if config.packing == "concat":
        lengths = n_pairs
    elif config.packing == "padded":
        lengths = -(-n_pairs // seq_len)
    else:
        tails = n_pairs % seq_len
        links = (link or link_tails)(tails, seq_len)
        lengths = n_pairs // seq_len + heads_of(tails, links)
    ends = np.cumsum(lengths)
    return EpochPlan(order, ends, n_pairs, seq_len, config.packing, config.n_lanes, links)


def find_row(
    first_rows: list[int], index: int, plan: Callable[[int], EpochPlan], fixed: bool
) -> tuple[int, int]:
    """Return the epoch of a row and its number there.

    Args:
        first_rows: first row of each epoch reached so far, at least of two; extended as needed.
        plan: returns the plan of an epoch.
        fixed: every epoch has the same number of rows.
    """
    if fixed:
        return divmod(index, first_rows[1])
    while index >= first_rows[-1]:
        first_rows.append(first_rows[-1] + plan(len(first_rows) - 1).n_rows)
    epoch = bisect_right(first_rows, index) - 1
    return epoch, index - first_rows[epoch]
