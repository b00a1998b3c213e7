"""Rows of training data by number.

Owns the way from a row's number to its `Batch`. The state of the data is the count of rows
consumed, itself a function of the step; nothing here remembers anything but caches.
"""

import functools
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.batch import Batch
from ladderlm.data.best_fit import WINDOW_DOCUMENTS
from ladderlm.data.config import DataConfig
from ladderlm.data.mixture import Mixture
from ladderlm.data.packing import EpochPlan, PackingReport, Segment, plan_epoch
from ladderlm.data.plans import cached_links, plan_file
from ladderlm.data.shards import Split
from ladderlm.errors import DataError

__all__ = ["RowStream", "fill_rows"]


def fill_rows(split: Split, rows: list[list[Segment]], seq_len: int, bos_id: int) -> Batch:
    """Read the tokens of planned rows.

    Args:
        split: where the documents lie.
        rows: pieces of each row; together at most `seq_len` tokens, the rest is padding.
        bos_id: never a target.

    Returns:
        A batch of len(rows) rows.
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

    Args:
        split: prepared documents.
        config: row length, packing and order.
        bos_id: of the data's tokenizer.

    Raises:
        DataError: the split holds nothing that could be a target.
    """

    def __init__(self, split: Split, config: DataConfig, bos_id: int) -> None:
        self.split, self.config, self.bos_id = split, config, bos_id
        self.mixture = Mixture(split, config) if config.subset_weights else None
        # Of the first epoch; best-fit may need other numbers later.
        self.rows_per_epoch = sum(plan.n_rows for plan in self.first_plans)
        self._first_rows = [0, self.rows_per_epoch]  # of each epoch that was reached so far
        if self.rows_per_epoch == 0:
            raise DataError(
                f"split {split.name!r} holds {split.n_tokens} tokens in "
                f"{split.n_documents} documents",
                "there is no pair of neighbouring tokens to train on",
                "prepare more text, or name another split",
            )

    @property
    def first_plans(self) -> list[EpochPlan]:
        """Plans of the first epoch: one, or of a mixture one for each subset."""
        return [self.plan(0)] if self.mixture is None else self.mixture.first_plans

    def report(self) -> PackingReport:
        """Count rows, padding and cut documents where every document stands once."""
        return PackingReport.of(self.first_plans)

    @functools.lru_cache(maxsize=2)  # noqa: B019  # two epochs meet in one batch; few streams exist
    def plan(self, epoch: int) -> EpochPlan:
        """Plan one epoch of the whole split; rows of a mixture are planned by subset."""
        lengths: NDArray[np.int64] = np.diff(self.split.offsets)
        config = self.config
        policy = (config.seq_len, config.packing, config.n_lanes)
        file = plan_file(self.split, config, epoch)
        link = None if file is None else functools.partial(cached_links, file)
        return plan_epoch(lengths, config.order_seed, epoch, *policy, link)

    def _find(self, row: int) -> tuple[int, int]:
        """Return the epoch of a row and its number there.

        Only best-fit rows differ in number from epoch to epoch, and only where documents fill
        several windows: within one the number depends on the lengths, not on their order.
        """
        if self.config.packing != "best-fit" or self.split.n_documents <= WINDOW_DOCUMENTS:
            return divmod(row, self.rows_per_epoch)
        while row >= self._first_rows[-1]:
            n_rows = self.plan(len(self._first_rows) - 1).n_rows
            self._first_rows.append(self._first_rows[-1] + n_rows)
        epoch = bisect_right(self._first_rows, row) - 1
        return epoch, row - self._first_rows[epoch]

    def pieces(self, row: int) -> list[Segment]:
        """Return what stands in a row."""
        if self.mixture is not None:
            return self.mixture.row(row)
        epoch, index = self._find(row)
        return self.plan(epoch).row(index)

    def rows(self, first_row: int, n_rows: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return this process's share of rows first_row .. first_row + n_rows - 1.

        The rows are the same for any number of processes; rank r takes a contiguous share, the
        first ranks one row more where the division leaves a rest.
        """
        share, rest = divmod(n_rows, world_size)
        begin = first_row + rank * share + min(rank, rest)
        end = begin + share + (rank < rest)
        planned = [self.pieces(row) for row in range(begin, end)]
        return fill_rows(self.split, planned, self.config.seq_len, self.bos_id)

    def n_targets(self, first_row: int, n_rows: int) -> int:
        """Count the targets of a range of rows without reading tokens: every pair counts once.

        A document's BOS stands only at its start, so it is never the second of a pair.
        """
        total = 0
        for row in range(first_row, first_row + n_rows):
            total += sum(piece.n_tokens for piece in self.pieces(row))
        return total
