"""Rows drawn from subsets by weight.

Owns the choice of the subset of each row, a pure function of (weights, order seed, row): there is
no state, and any process can compute any row. A row holds documents of one subset.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.config import DataConfig
from ladderlm.data.packing import EpochPlan, Segment, find_row, plan_epoch
from ladderlm.data.shards import Split
from ladderlm.errors import DataError

__all__ = ["PERIOD_ROWS", "Mixture", "share_rows"]

PERIOD_ROWS = 4096  # every subset has its exact share, to one row, in each run of so many rows
_DOMAIN = 0x6D6978  # separates these draws from the permutations of documents


def share_rows(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Divide PERIOD_ROWS by weight (largest remainder); each weight above 0 gets at least one."""
    exact = PERIOD_ROWS * weights / weights.sum()
    shares: NDArray[np.int64] = np.maximum(np.floor(exact), weights > 0).astype(np.int64)
    while shares.sum() < PERIOD_ROWS:
        shares[np.argmax(exact - shares)] += 1
    while shares.sum() > PERIOD_ROWS:
        shares[np.argmax(shares)] -= 1
    return shares


class Mixture:
    """An endless sequence of rows in which each subset has a given share.

    Each subset has its own epochs and its own seeded order of documents, so a small subset with a
    large weight repeats sooner.

    Args:
        config: with `subset_weights`.

    Raises:
        DataError: a subset is not in the split, or holds nothing to train on.
    """

    def __init__(self, split: Split, config: DataConfig) -> None:
        self.config = config
        names = [name for name, _ in config.subset_weights]
        if missing := [name for name in names if name not in split.subset_names]:
            raise DataError(
                f"data.subset_weights names {missing[0]!r}, which is not in split {split.name!r}",
                fix=f"name subsets among {', '.join(map(repr, split.subset_names))}",
            )
        ids = [split.subset_names.index(name) for name in names]
        self.documents = [np.flatnonzero(split.subset_ids == i) for i in ids]
        lengths = np.diff(split.offsets)
        self._lengths = [lengths[documents] for documents in self.documents]
        self._shares = share_rows(np.array([weight for _, weight in config.subset_weights]))
        # By subset, see `find_row`.
        self._first_rows = [[0, plan.n_rows] for plan in self.first_plans]
        for name, firsts in zip(names, self._first_rows, strict=True):
            if firsts[1] == 0:
                raise DataError(
                    f"subset {name!r} of split {split.name!r} holds no document to train on",
                    fix=f"leave {name!r} out of data.subset_weights",
                )

    @property
    def first_plans(self) -> list[EpochPlan]:
        """Plans of the first epoch of each subset, which hold every document once."""
        return [self._plan(subset, 0) for subset in range(len(self.documents))]

    @functools.lru_cache(maxsize=64)  # noqa: B019  # two epochs of each subset; few streams exist
    def _plan(self, subset: int, epoch: int) -> EpochPlan:
        return plan_epoch(self._lengths[subset], self.config, epoch)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _period(self, period: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the subset of each row of a period, and the number of its rows before that one."""
        order = np.repeat(np.arange(len(self._shares)), self._shares)
        np.random.default_rng([self.config.order_seed, period, _DOMAIN]).shuffle(order)
        before = np.empty(PERIOD_ROWS, np.int64)
        for subset, share in enumerate(self._shares):
            before[order == subset] = np.arange(share)
        return order, before

    def place(self, row: int) -> tuple[int, int]:
        """Return the index of a row's subset, and the number of its rows before that one."""
        period, offset = divmod(row, PERIOD_ROWS)
        order, before = self._period(period)
        subset = int(order[offset])
        return subset, period * int(self._shares[subset]) + int(before[offset])

    def row(self, row: int) -> list[Segment]:
        """Return the pieces of a row; documents are numbered as in the split."""
        subset, index = self.place(row)
        plan = functools.partial(self._plan, subset)
        fixed = self.config.packing != "best-fit"
        epoch, index = find_row(self._first_rows[subset], index, plan, fixed)
        pieces = plan(epoch).row(index)
        own = self.documents[subset]
        return [Segment(int(own[piece.document]), piece.start, piece.n_tokens) for piece in pieces]
