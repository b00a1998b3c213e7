"""Rows drawn from subsets by weight.

Owns the choice of the subset of each row. It is a pure function of (weights, order seed, row), so
there is no state to keep and any process can work out any row. A row holds documents of one subset.
"""

import functools
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.config import DataConfig
from ladderlm.data.packing import EpochPlan, Segment, plan_epoch
from ladderlm.data.shards import Split
from ladderlm.errors import DataError

__all__ = ["PERIOD_ROWS", "Mixture", "share_rows"]

PERIOD_ROWS = 4096  # in each run of so many rows every subset has its share, to one row
_DOMAIN = 0x6D6978  # keeps these draws apart from the permutations of documents


def share_rows(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Share PERIOD_ROWS out by weight, by largest remainder; no weight above zero gets none."""
    exact = PERIOD_ROWS * weights / weights.sum()
    shares: NDArray[np.int64] = np.maximum(np.floor(exact), weights > 0).astype(np.int64)
    while shares.sum() < PERIOD_ROWS:
        shares[np.argmax(exact - shares)] += 1
    while shares.sum() > PERIOD_ROWS:
        shares[np.argmax(shares)] -= 1
    return shares


class Mixture:
    """An endless sequence of rows in which subsets have given shares.

    Each subset is gone through epoch after epoch in seeded orders of its own documents, so a small
    subset with a large weight is repeated sooner.

    Args:
        split: prepared documents.
        config: with `subset_weights`.

    Raises:
        DataError: a weight for a subset that the split does not have, or one with nothing to
            train on.
    """

    def __init__(self, split: Split, config: DataConfig) -> None:
        self.config = config
        names = [name for name, _ in config.subset_weights]
        missing = [name for name in names if name not in split.subset_names]
        if missing:
            raise DataError(
                f"data.subset_weights names {missing[0]!r}, which split {split.name!r} has not",
                f"it has {', '.join(repr(name) for name in split.subset_names)}",
                "name subsets as `ladderlm prepare` lists them",
            )
        ids = [split.subset_names.index(name) for name in names]
        self.documents = [np.flatnonzero(split.subset_ids == i) for i in ids]
        lengths = np.diff(split.offsets)
        self._lengths = [lengths[documents] for documents in self.documents]
        self._shares = share_rows(np.array([weight for _, weight in config.subset_weights]))
        # First row of each epoch that was reached so far, by subset.
        self._first_rows = [[0, self._plan(i, 0).n_rows] for i in range(len(ids))]
        for name, firsts in zip(names, self._first_rows, strict=True):
            if firsts[1] == 0:
                raise DataError(
                    f"subset {name!r} of split {split.name!r} has nothing to train on",
                    "its documents hold no pair of neighbouring tokens",
                    "leave it out of data.subset_weights",
                )

    @property
    def first_plans(self) -> list[EpochPlan]:
        """Plans of the first epoch of each subset; together they hold every document once."""
        return [self._plan(subset, 0) for subset in range(len(self.documents))]

    @functools.lru_cache(maxsize=64)  # noqa: B019  # two epochs of each subset; few streams exist
    def _plan(self, subset: int, epoch: int) -> EpochPlan:
        config = self.config
        policy = (config.seq_len, config.packing, config.n_lanes)
        return plan_epoch(self._lengths[subset], config.order_seed, epoch, *policy)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _period(self, period: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the subset of each row of a period, and how many rows of it come before there."""
        order = np.repeat(np.arange(len(self._shares)), self._shares)
        np.random.default_rng([self.config.order_seed, period, _DOMAIN]).shuffle(order)
        before = np.empty(PERIOD_ROWS, np.int64)
        for subset, share in enumerate(self._shares):
            before[order == subset] = np.arange(share)
        return order, before

    def place(self, row: int) -> tuple[int, int]:
        """Return a row's subset, by its number among the weights, and the rows of it before."""
        period, offset = divmod(row, PERIOD_ROWS)
        order, before = self._period(period)
        subset = int(order[offset])
        return subset, period * int(self._shares[subset]) + int(before[offset])

    def _find(self, subset: int, index: int) -> tuple[int, int]:
        """Return the epoch of a subset's row and its number there."""
        firsts = self._first_rows[subset]
        if self.config.packing in ("concat", "padded"):  # the order changes no number of rows
            return divmod(index, firsts[1])
        while index >= firsts[-1]:
            firsts.append(firsts[-1] + self._plan(subset, len(firsts) - 1).n_rows)
        epoch = bisect_right(firsts, index) - 1
        return epoch, index - firsts[epoch]

    def row(self, row: int) -> list[Segment]:
        """Return the pieces of a row; documents are numbered as in the split."""
        subset, index = self.place(row)
        epoch, index = self._find(subset, index)
        pieces = self._plan(subset, epoch).row(index)
        own = self.documents[subset]
        return [Segment(int(own[piece.document]), piece.start, piece.n_tokens) for piece in pieces]
