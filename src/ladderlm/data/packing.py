"""Which tokens stand in which row.

Owns the seeded order of documents and the two packing policies of training. A plan is a pure
function of (document lengths, order seed, epoch, row length, policy); it holds no position to
lose. Reads no files but through the split it is given.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochPlan", "Piece", "document_order", "plan_epoch"]


@dataclass(frozen=True)
class Piece:
    """A run of one document's tokens inside a row.

    Args:
        document: index of the document in its split.
        start: first input token, counted from the document's BOS.
        n_tokens: input tokens; targets are the same run shifted by one, so the last input token
            of a piece is never the document's EOS.
    """

    document: int
    start: int
    n_tokens: int


def document_order(n_documents: int, order_seed: int, epoch: int) -> NDArray[np.int64]:
    """Give the order of documents in one epoch: a permutation drawn from (order_seed, epoch).

    It depends on nothing else, so two tokenizers or packings see the same documents in turn.
    """
    return np.random.default_rng([order_seed, epoch]).permutation(n_documents).astype(np.int64)


@dataclass(frozen=True)
class EpochPlan:
    """One epoch's rows.

    A document of L tokens (BOS and EOS in) has L - 1 (input, target) pairs. `concat` lays the
    pairs of all documents end to end and cuts every `seq_len`, so that every target is scored
    once and a row is full but for the last. `padded` begins each document in a row of its own,
    and continues long ones in further rows.

    Args:
        order: documents in turn, (n_documents,).
        ends: running total of pairs (concat) or rows (padded) after each document of `order`.
        n_pairs: pairs of each document of `order`.
        seq_len: T.
        policy: how rows are filled.
        n_lanes: places of the epoch that are read in turn, see `place`.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    n_pairs: NDArray[np.int64]
    seq_len: int
    policy: Literal["concat", "padded"]
    n_lanes: int

    @property
    def n_rows(self) -> int:
        """Rows of the epoch; at least 1 unless there is nothing to train on."""
        total = int(self.ends[-1]) if len(self.ends) else 0
        return -(-total // self.seq_len) if self.policy == "concat" else total

    def place(self, index: int) -> int:
        """Give the place, in the order of packing, of the row that is read as number `index`.

        The epoch is cut into `n_lanes` runs of equal length (give or take one row), and one row
        of each is read in turn. So the rows of a batch come from different documents, although a
        document may fill many rows. A bijection of 0 .. n_rows - 1.
        """
        n_lanes = min(self.n_lanes, self.n_rows)
        length, rest = divmod(self.n_rows, n_lanes)
        depth, lane = divmod(index, n_lanes)
        return lane * length + min(lane, rest) + depth

    def row(self, index: int) -> list[Piece]:
        """Give the pieces of the row read as number `index`, 0 <= index < n_rows, in order."""
        place = self.place(index)
        return self._row_concat(place) if self.policy == "concat" else [self._row_padded(place)]

    def _row_concat(self, index: int) -> list[Piece]:
        begin, end = index * self.seq_len, (index + 1) * self.seq_len
        at = int(np.searchsorted(self.ends, begin, side="right"))
        pieces = []
        while begin < end and at < len(self.order):
            document_begin = int(self.ends[at] - self.n_pairs[at])
            n_tokens = min(end, int(self.ends[at])) - begin
            if n_tokens > 0:
                pieces.append(Piece(int(self.order[at]), begin - document_begin, n_tokens))
            begin += n_tokens
            at += 1
        return pieces

    def _row_padded(self, index: int) -> Piece:
        at = int(np.searchsorted(self.ends, index, side="right"))
        first_row = int(self.ends[at] - -(-self.n_pairs[at] // self.seq_len))
        start = (index - first_row) * self.seq_len
        n_tokens = min(self.seq_len, int(self.n_pairs[at]) - start)
        return Piece(int(self.order[at]), start, n_tokens)


def plan_epoch(
    document_lengths: NDArray[np.int64],
    order_seed: int,
    epoch: int,
    seq_len: int,
    policy: Literal["concat", "padded"],
    n_lanes: int = 1,
) -> EpochPlan:
    """Plan one epoch.

    Args:
        document_lengths: tokens of each document of the split, BOS and EOS in.
        order_seed, epoch: choose the permutation.
        seq_len: T, tokens of a row.
        policy, n_lanes: see `EpochPlan`.
    """
    order = document_order(len(document_lengths), order_seed, epoch)
    n_pairs = np.maximum(document_lengths[order] - 1, 0)
    lengths = n_pairs if policy == "concat" else -(-n_pairs // seq_len)
    return EpochPlan(order, np.cumsum(lengths), n_pairs, seq_len, policy, n_lanes)
