"""Score documents: every token once, every byte counted.

Owns the cutting of documents into windows and the sums per document. What the sums mean is in
`subsets.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ladderlm.data.shards import Split
from ladderlm.dist import Processes
from ladderlm.errors import DataError
from ladderlm.eval.config import Policy
from ladderlm.eval.subsets import DocumentLosses
from ladderlm.model.loss import token_nats
from ladderlm.model.transformer import Transformer

__all__ = ["Window", "head_documents", "make_windows", "score_documents"]


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

    Documents longer than a quarter of the budget are passed over, so that one novel is not the
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


def _groups(windows: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Group windows of similar length, so that little is spent on padding."""
    by_length = sorted(windows, key=lambda w: (-w.n_tokens, w.document, w.start))
    at = 0
    while at < len(by_length):
        n_rows = max(1, batch_tokens // by_length[at].n_tokens)
        yield by_length[at : at + n_rows]
        at += n_rows


@torch.inference_mode()
def score_documents(
    model: Transformer,
    split: Split,
    document_ids: NDArray[np.int64],
    policy: Policy,
    batch_tokens: int = 8192,
    processes: Processes | None = None,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
) -> DocumentLosses:
    """Give the nats of each document, whatever its length.

    Each window stands in a row of its own, padded at its end; with causal attention nothing that
    counts can see the padding. Sums are float64.

    Args:
        document_ids: documents to score, in this order in the result.
        policy: context and stride.
        batch_tokens: positions of one forward pass; does not change what is scored.
        processes: windows are shared out over them, results are the same on each.
        check: called before every forward pass; may raise to stop early.
        progress: told (windows done, windows in all).
    """
    was_training = model.training
    model.eval()
    device = model.tok_embeddings.weight.device
    lengths = np.diff(split.offsets)[document_ids]
    windows = [
        window
        for place, length in enumerate(lengths)
        for window in make_windows(place, int(length), policy)
    ]
    n_all = len(windows)
    if processes is not None:
        windows = windows[processes.rank :: processes.world_size]
    nats, eos_nats = np.zeros(len(document_ids)), np.zeros(len(document_ids))
    n_done = 0
    for group in _groups(windows, batch_tokens):
        check()
        tokens, targets = _read(split, document_ids, group, model.config.vocabulary)
        hidden = model.hidden(torch.from_numpy(tokens).to(device))
        scored = token_nats(hidden, model.output.weight, torch.from_numpy(targets).to(device))
        rows = scored.double().cpu().numpy()
        for row, window in zip(rows, group, strict=True):
            counted = row[window.n_context : window.n_tokens]
            if window.start + window.n_tokens == lengths[window.document] - 1:
                eos_nats[window.document] += counted[-1]
                counted = counted[:-1]
            nats[window.document] += counted.sum()
        n_done += len(group)
        if progress is not None:
            progress(min(n_done * n_all // max(len(windows), 1), n_all), n_all)
    if processes is not None:
        nats, eos_nats = processes.sum_array(nats), processes.sum_array(eos_nats)
    model.train(was_training)
    return DocumentLosses(
        document_ids=np.asarray(document_ids, dtype=np.int64),
        subset_ids=split.subset_ids[document_ids],
        n_bytes=split.n_bytes[document_ids],
        n_tokens=lengths - 2,
        nats=nats,
        eos_nats=eos_nats,
        subset_names=split.subset_names,
    )


def _read(
    split: Split, document_ids: NDArray[np.int64], group: list[Window], vocab_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the inputs and targets of a group of windows, padded with 0 to the longest."""
    longest = max(window.n_tokens for window in group)
    tokens = np.zeros((len(group), longest), dtype=np.int64)
    targets = np.zeros((len(group), longest), dtype=np.int64)
    for row, window in enumerate(group):
        begin = int(split.offsets[document_ids[window.document]]) + window.start
        run = split.tokens(begin, begin + window.n_tokens + 1).astype(np.int64)
        if int(run.max()) >= vocab_size:
            raise DataError(
                f"token id {int(run.max())} in split {split.name!r}, vocabulary {vocab_size}",
                "data and model come from different tokenizers, or the data is damaged",
                "run `ladderlm verify DATA`, and prepare the data with the model's tokenizer",
            )
        tokens[row, : window.n_tokens], targets[row, : window.n_tokens] = run[:-1], run[1:]
    return tokens, targets
