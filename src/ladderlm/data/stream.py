"""Rows of training data by number.

Owns the way from a row's number to its `Batch`. The only state of the data is the number of rows
consumed, which follows from the step. Nothing is kept here except caches.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.batch import Batch
from ladderlm.data.best_fit import WINDOW_DOCUMENTS
from ladderlm.data.config import DataConfig
from ladderlm.data.mixture import Mixture
from ladderlm.data.packing import EpochPlan, PackingReport, Segment, find_row, plan_epoch
from ladderlm.data.plans import cached_links, plan_file
from ladderlm.data.shards import Split
from ladderlm.errors import DataError

__all__ = ["RowStream", "fill_rows"]


def fill_rows(split: Split, rows: list[list[Segment]], seq_len: int, bos_id: int) -> Batch:
    """Read the tokens of planned rows into a batch.

    Args:
        rows: pieces of each row, at most `seq_len` tokens in all; the rest is padding.
        bos_id: never a target.
    """
    shape = (len(rows), seq_len)
    tokens, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segment_ids, document_ids = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    positions = np.zeros(shape, np.int64)
    for row, pieces in enumerate(rows):
        at = 0
        for segment, piece in enumerate(pieces):
            begin = int(split.offsets[piece.document]) + piece.start
            run = split.tokens(begin, begin + piece.n_tokens + 1).astype(np.int64)
            place = slice(at, at + piece.n_tokens)
            tokens[row, place], targets[row, place] = run[:-1], run[1:]
            segment_ids[row, place], document_ids[row, place] = segment, piece.document
            positions[row, place] = np.arange(piece.n_tokens)
            at += piece.n_tokens
    loss_mask = (segment_ids >= 0) & (targets != bos_id)
    return Batch(tokens, targets, loss_mask, segment_ids, positions, document_ids)


class RowStream:
    """An endless sequence of rows: epoch after epoch, each in its own seeded order.

    Raises:
        DataError: the split holds nothing that could be a target.
    """

    def __init__(self, split: Split, config: DataConfig, bos_id: int) -> None:
        self.split, self.config, self.bos_id = split, config, bos_id
        self.mixture = Mixture(split, config) if config.subset_weights else None
        # Of the first epoch. Later epochs of best-fit may have other numbers.
        self.rows_per_epoch = sum(plan.n_rows for plan in self.first_plans)
        self._first_rows = [0, self.rows_per_epoch]  # see `find_row`
        if self.rows_per_epoch == 0:
            raise DataError(
                f"split {split.name!r} must hold a document, it holds {split.n_tokens} tokens "
                f"in {split.n_documents} documents",
                fix="prepare more text, or name another split",
            )

    @property
    def first_plans(self) -> list[EpochPlan]:
        """Plans of the first epoch: one, or one per subset of a mixture."""
        return [self.plan(0)] if self.mixture is None else self.mixture.first_plans

    def report(self) -> PackingReport:
        """Count rows, padding and cut documents, each document once."""
        return PackingReport.of(self.first_plans)

    @functools.lru_cache(maxsize=2)  # noqa: B019  # two epochs meet in one batch; few streams exist
    def plan(self, epoch: int) -> EpochPlan:
        """Plan one epoch of the whole split, for data without subset weights."""
        lengths: NDArray[np.int64] = np.diff(self.split.offsets)
        file = plan_file(self.split, self.config, epoch)
        link = None if file is None else functools.partial(cached_links, file)
        return plan_epoch(lengths, self.config, epoch, link)

    def pieces(self, row: int) -> list[Segment]:
        """Return the pieces of a row."""
        if self.mixture is not None:
            return self.mixture.row(row)
        # Within one window, the number of rows depends on the lengths and not on their order.
        fixed = self.config.packing != "best-fit" or self.split.n_documents <= WINDOW_DOCUMENTS
        epoch, index = find_row(self._first_rows, row, self.plan, fixed)
        return self.plan(epoch).row(index)

    def rows(self, first_row: int, n_rows: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return this process's share of rows first_row .. first_row + n_rows - 1.

        The rows are the same for any number of processes. Each rank takes a contiguous share; the
        first ranks take one row more if `n_rows` is not a multiple of `world_size`.
        """
        share, rest = divmod(n_rows, world_size)
        begin = first_row + rank * share + min(rank, rest)
        end = begin + share + (rank < rest)
        planned = [self.pieces(row) for row in range(begin, end)]
        return fill_rows(self.split, planned, self.config.seq_len, self.bos_id)

    def n_targets(self, first_row: int, n_rows: int) -> int:
        """Count the targets of rows without reading tokens: every input token has one.

        A BOS is only at the start of a document, so it is never the target of another token.
        """
        rows = range(first_row, first_row + n_rows)
        return sum(piece.n_tokens for row in rows for piece in self.pieces(row))
