"""Score documents: every token once, every byte counted.

Owns the cutting of documents into windows, their layout in rows, and the sums per document. What
the sums mean is in `subsets.py`; what a model is to the meter, in `scorer.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.shards import Split
from ladderlm.dist import ALONE, Processes
from ladderlm.errors import ConfigError, DataError
from ladderlm.eval.config import Packing, Policy
from ladderlm.eval.scorer import Scorer, TransformerScorer
from ladderlm.eval.subsets import DocumentLosses
from ladderlm.model.transformer import Transformer
from ladderlm.watch import UNWATCHED, Watch

__all__ = [
    "DEFAULT_SCORING",
    "Documents",
    "Scoring",
    "Window",
    "head_documents",
    "make_windows",
    "meter_documents",
    "score_documents",
]


class Documents(Protocol):
    """Documents as token ids, BOS and EOS in: a `Split` on disk, or `texts.Encoded` in memory."""

    @property
    def name(self) -> str:
        """Of the split."""
        ...

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First token of each document, and the end: (n_documents + 1,)."""
        ...

    @property
    def n_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes of each raw text."""
        ...

    @property
    def subset_ids(self) -> NDArray[np.int64]:
        """Index of each document's subset."""
        ...

    @property
    def subset_names(self) -> tuple[str, ...]:
        """Names that `subset_ids` point to."""
        ...

    def tokens(self, start: int, stop: int) -> NDArray[Any]:
        """Return tokens start .. stop - 1."""
        ...


@dataclass(frozen=True)
class Window:
    """A run of one document's tokens, read together.

    Args:
        document: index in the split.
        start: first input token, counted from the document's BOS.
        n_tokens: input tokens; their targets are the same run shifted by one.
        n_context: leading positions that are read but not scored: an earlier window scored them.
    """

    document: int
    start: int
    n_tokens: int
    n_context: int


@dataclass(frozen=True)
class Scoring:
    """How documents are scored; none of it changes what is scored.

    Args:
        batch_tokens: positions of one forward pass.
        packing: "rows" gives each window a row of its own, padded at its end, where causal
            attention sees no padding; "packed" lays several short windows into a row, each of
            which sees itself alone.
        processes: windows are shared out over them, results are the same on each.
        watch: checked before every forward pass, told (windows done, windows in all) after it.
    """

    batch_tokens: int = 8192
    packing: Packing = "rows"
    processes: Processes = ALONE
    watch: Watch = UNWATCHED


DEFAULT_SCORING = Scoring()


def make_windows(document: int, n_document_tokens: int, policy: Policy) -> list[Window]:
    """Cut one document (BOS and EOS in) so that each of its targets is scored exactly once."""
    n_pairs = n_document_tokens - 1
    windows = []
    scored = 0
    while scored < n_pairs:
        end = min(n_pairs, policy.context if scored == 0 else scored + policy.stride)
        start = max(0, end - policy.context) if scored else 0
        windows.append(Window(document, start, end - start, scored - start))
        scored = end
    return windows


def head_documents(split: Split, n_documents: int, n_tokens: int) -> NDArray[np.int64]:
    """Choose a fixed head of a split: documents in order until `n_tokens` are reached.

    Documents longer than a quarter of the budget are skipped, so that one novel is not the
    whole of it. If none fits, the shortest is taken.

    Args:
        n_documents: look at the first this many.
        n_tokens: budget, BOS and EOS in.
    """
    lengths = np.diff(split.offsets)[:n_documents]
    candidates = np.flatnonzero(lengths <= max(n_tokens // 4, 1))
    fitting = candidates[np.cumsum(lengths[candidates]) <= n_tokens]
    if not len(fitting):
        fitting = np.array([int(np.argmin(lengths))])
    return fitting.astype(np.int64)


def score_documents(
    model: Transformer,
    split: Documents,
    document_ids: NDArray[np.int64],
    policy: Policy,
    how: Scoring = DEFAULT_SCORING,
) -> DocumentLosses:
    """Return what our own model makes of each document. Arguments as in `meter_documents`.

    The model is left in the mode it was found in.
    """
    was_training = model.training
    model.eval()
    try:
        return meter_documents(TransformerScorer(model), split, document_ids, policy, how)
    finally:
        model.train(was_training)


def meter_documents(
    scorer: Scorer,
    split: Documents,
    document_ids: NDArray[np.int64],
    policy: Policy,
    how: Scoring = DEFAULT_SCORING,
) -> DocumentLosses:
    """Return the nats of each document, of any length.

    Each token's nats are widened to float64 before they are added. Windows are added up in one
    fixed order, so batches, packing and processes change only how the model itself rounds.

    Args:
        document_ids: documents to score, in this order in the result.
        policy: context and stride.
        how: batches and processes.

    Raises:
        ConfigError: the model cannot read so long a window.
        DataError: a token id that the model does not know.
    """
    if policy.context > scorer.max_context:
        raise ConfigError(
            f"context {policy.context} is longer than the model's {scorer.max_context}",
            "it was made for no more positions",
            "choose a shorter one",
        )
    lengths = np.diff(split.offsets)[document_ids]
    windows = [
        window
        for place, length in enumerate(lengths)
        for window in make_windows(place, int(length), policy)
    ]
    packed = how.packing == "packed"
    rows = _lay_out(windows, policy.context if packed else None)
    rows = rows[how.processes.rank :: how.processes.world_size]
    n_own = sum(map(len, rows))
    nats, eos_nats = np.zeros(len(windows)), np.zeros(len(document_ids))
    n_done = 0
    for group in _groups(rows, windows, how.batch_tokens):
        how.watch.check()
        arrays = _read_rows(split, document_ids, windows, group, scorer.vocab_size)
        scored = scorer.nats(*(arrays if packed else arrays[:3]))
        at = 0
        for index in (index for row in group for index in row):
            window = windows[index]
            own = scored[at : at + window.n_tokens - window.n_context]
            at += len(own)
            if window.start + window.n_tokens == lengths[window.document] - 1:
                eos_nats[window.document] = own[-1]
                own = own[:-1]
            nats[index] = own.sum()
            n_done += 1
        how.watch.progress(n_done * len(windows) // n_own, len(windows))
    # a window has nats on one process only, so these sums are exact
    nats, eos_nats = how.processes.sum_array(nats), how.processes.sum_array(eos_nats)
    document_nats = np.zeros(len(document_ids))
    np.add.at(document_nats, [window.document for window in windows], nats)
    return DocumentLosses(
        document_ids=np.asarray(document_ids, dtype=np.int64),
        subset_ids=split.subset_ids[document_ids],
        n_bytes=split.n_bytes[document_ids],
        n_tokens=lengths - 2,
        nats=document_nats,
        eos_nats=eos_nats,
        subset_names=split.subset_names,
    )


def _lay_out(windows: list[Window], row_tokens: int | None) -> list[list[int]]:
    """Lay windows into rows, longest first: one a row, or as many as `row_tokens` hold.

    Returns:
        Rows of indices into `windows`. Packing is best fit on falling lengths.
    """
    order = sorted(range(len(windows)), key=lambda i: (-windows[i].n_tokens, i))
    if row_tokens is None:
        return [[i] for i in order]
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]  # rows by their free places
    for i in order:
        n_tokens = windows[i].n_tokens
        room = next((r for r in range(n_tokens, row_tokens + 1) if with_room[r]), None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, row_tokens
        else:
            row = with_room[room].pop()
        rows[row].append(i)
        with_room[room - n_tokens].append(row)
    return rows


def _groups(
    rows: list[list[int]], windows: list[Window], batch_tokens: int
) -> Iterator[list[list[int]]]:
    """Group rows of similar length, so that little is spent on padding."""
    lengths = [sum(windows[i].n_tokens for i in row) for row in rows]
    order = sorted(range(len(rows)), key=lambda r: (-lengths[r], r))
    at = 0
    while at < len(order):
        n_rows = max(1, batch_tokens // lengths[order[at]])
        yield [rows[r] for r in order[at : at + n_rows]]
        at += n_rows


def _read_rows(
    split: Documents,
    document_ids: NDArray[np.int64],
    windows: list[Window],
    group: list[list[int]],
    vocab_size: int,
) -> tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]
]:
    """Read a group of rows: tokens, targets, scored, segment_ids, positions; padding is 0 or -1."""
    shape = (len(group), max(sum(windows[i].n_tokens for i in row) for row in group))
    tokens, targets, positions = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    scored, segments = np.zeros(shape, dtype=np.bool_), np.full(shape, -1, dtype=np.int64)
    for r, row in enumerate(group):
        at = 0
        for segment, window in enumerate(windows[i] for i in row):
            begin = int(split.offsets[document_ids[window.document]]) + window.start
            run = split.tokens(begin, begin + window.n_tokens + 1).astype(np.int64)
            if int(run.max()) >= vocab_size:
                raise DataError(
                    f"token id {int(run.max())} in split {split.name!r}, vocabulary {vocab_size}",
                    "data and model come from different tokenizers, or the data is damaged",
                    "run `ladderlm verify DATA`, and prepare the data with the model's tokenizer",
                )
            end = at + window.n_tokens
            tokens[r, at:end], targets[r, at:end] = run[:-1], run[1:]
            scored[r, at + window.n_context : end] = True
            segments[r, at:end], positions[r, at:end] = segment, np.arange(window.n_tokens)
            at = end
    return tokens, targets, scored, segments, positions
