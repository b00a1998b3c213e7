"""Proofs about what the loss of a batch depends on.

Owns `prove`. Every proof acts on the very functions that train: it changes a batch, runs the model
again and compares bits. Nothing is believed because it was planned so. Shapes: B rows, T places.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ladderlm.data.batch import Batch, join_batches
from ladderlm.data.shards import Split
from ladderlm.data.stream import RowStream
from ladderlm.eval.xray import model_inputs, token_losses
from ladderlm.model.transformer import Transformer

__all__ = ["Accumulate", "Proof", "proof_rows", "prove"]

Accumulate = Callable[[Transformer, Batch], Tensor]
N_PERTURBED = 8  # documents that are changed in turn
N_SEARCHED = 4096  # rows of the epoch that are looked through for telling ones
# The largest differences allowed, relative and in nats: float32 added up in another order.
TOLERANCE, TOKEN_TOLERANCE = 1e-4, 1e-3


@dataclass(frozen=True)
class Proof:
    """One claim and what came of it.

    Args:
        name: a word or two.
        passed: the claim holds.
        statement: a sentence with the numbers.
        numbers: the same for programs.
    """

    name: str
    passed: bool
    statement: str
    numbers: Mapping[str, float]


def proof_rows(stream: RowStream, first_row: int, n_rows: int) -> Batch:
    """Return rows to prove on: those requested, two with several documents, one with padding.

    The additional rows are the first such of the epoch, where there are any among the first
    `N_SEARCHED` and the last one.
    """
    batches = [stream.rows(first_row, n_rows)]
    n_mixed = n_padded = 0
    searched = range(min(stream.rows_per_epoch, N_SEARCHED))
    last = stream.rows_per_epoch - 1  # the one padded row of concat, with one lane
    for row in dict.fromkeys([*searched, last]):
        pieces = stream.pieces(row)
        mixed = len(pieces) > 1
        padded = sum(piece.n_tokens for piece in pieces) < stream.config.seq_len
        if (mixed and n_mixed < 2) or (padded and not n_padded):
            batches.append(stream.rows(row, 1))
            n_mixed, n_padded = n_mixed + mixed, n_padded + padded
        if n_mixed >= 2 and n_padded:
            break
    return join_batches(batches)


def prove(
    model: Transformer,
    batch: Batch,
    split: Split,
    bos_id: int,
    mask_documents: bool,
    accumulate: Accumulate,
) -> list[Proof]:
    """Prove what the loss of a batch depends on, and what it does not.

    Args:
        model: any; it is used in evaluation mode, on its device, and its gradients are cleared.
        batch: rows, best from `proof_rows`.
        split: where its documents lie.
        bos_id: never a target.
        mask_documents: as in training.
        accumulate: training's own way from model and batch to gradients and the sum of nats.

    Returns:
        Proofs in the order in which one would doubt.
    """
    was_training = model.training
    model.eval()
    try:
        return [
            _prove_labels(batch, split),
            _prove_mask(batch, bos_id),
            _prove_positions(batch, mask_documents),
            _prove_loss(model, batch, mask_documents, accumulate),
            _prove_isolation(model, batch, mask_documents),
            _prove_causality(model, batch, mask_documents),
            _prove_padding(model, batch, accumulate),
        ]
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)


def _prove_labels(batch: Batch, split: Split) -> Proof:
    """Within a piece every target is the next input, and the last one is next on disk."""
    counted, segments = batch.loss_mask, batch.segment_ids
    rates: dict[int, float] = {}
    n_compared = 0
    for shift in (0, 1, 2):
        end = segments.shape[1] - shift
        places = counted[:, :end] & (segments[:, :end] == segments[:, shift:])
        equal = batch.targets[:, :end][places] == batch.tokens[:, shift:][places]
        rates[shift] = float(equal.mean()) if equal.size else 1.0
        n_compared = equal.size if shift == 1 else n_compared
    n_pieces = n_on_disk = 0
    for row in range(batch.n_rows):
        for segment in range(int(segments[row].max(initial=-1)) + 1):
            own = np.flatnonzero(segments[row] == segment)
            run = np.append(batch.tokens[row, own], batch.targets[row, own[-1]])
            document = split.document(int(batch.document_ids[row, own[0]]))
            n_pieces += 1
            n_on_disk += _contains(document.astype(np.int64), run)
    passed = rates[1] == 1.0 and n_on_disk == n_pieces
    statement = (
        f"targets are the inputs shifted by one: {rates[1]:.2%} of {n_compared:,} places (by none "
        f"{rates[0]:.2%}, by two {rates[2]:.2%}); {n_on_disk:,} of {n_pieces:,} pieces stand with "
        f"their last target in the document on disk"
    )
    numbers = {f"shift_{shift}": rate for shift, rate in rates.items()}
    return Proof(
        "labels", passed, statement, numbers | {"n_pieces": n_pieces, "n_on_disk": n_on_disk}
    )


def _contains(document: NDArray[np.int64], run: NDArray[np.int64]) -> bool:
    """Return whether a run of ids stands in a document."""
    data, wanted = document.tobytes(), run.tobytes()
    at = data.find(wanted)
    while at >= 0 and at % document.itemsize:
        at = data.find(wanted, at + 1)
    return at >= 0


def _prove_mask(batch: Batch, bos_id: int) -> Proof:
    expected = (batch.segment_ids >= 0) & (batch.targets != bos_id)
    n_wrong = int((batch.loss_mask != expected).sum())
    n_padding = int((batch.segment_ids < 0).sum())
    statement = (
        f"the loss counts every place of a document and no other: {batch.n_targets:,} targets, "
        f"{n_padding:,} places of padding, {n_wrong:,} places wrong"
    )
    numbers = {"n_targets": batch.n_targets, "n_padding": n_padding, "n_wrong": n_wrong}
    return Proof("loss mask", n_wrong == 0, statement, numbers)


def _prove_positions(batch: Batch, mask_documents: bool) -> Proof:
    n_wrong, n_pieces = 0, 0
    for row in range(batch.n_rows):
        segments = batch.segment_ids[row]
        for segment in range(int(segments.max(initial=-1)) + 1):
            own = batch.positions[row, segments == segment]
            n_wrong += int((own != np.arange(len(own))).sum())
            n_pieces += 1
    statement = f"positions restart at 0 in each of {n_pieces:,} pieces: {n_wrong:,} places wrong"
    if not mask_documents:
        statement += "; without a document mask the model is given 0 to T - 1 instead"
    return Proof("positions", n_wrong == 0, statement, {"n_pieces": n_pieces, "n_wrong": n_wrong})


def _prove_loss(
    model: Transformer, batch: Batch, mask_documents: bool, accumulate: Accumulate
) -> Proof:
    """Compare training's sum of nats with one written out: log-softmax, gather, add."""
    device = model.tok_embeddings.weight.device
    by_hand = np.empty(batch.tokens.shape)
    with torch.no_grad():
        for row in range(batch.n_rows):
            rows = batch.rows(row, row + 1)
            logits = model(*model_inputs(rows, mask_documents, device)).double()
            targets = torch.from_numpy(rows.targets).to(device).unsqueeze(-1)
            picked = -torch.log_softmax(logits, -1).gather(-1, targets).squeeze(-1)
            by_hand[row] = picked[0].cpu().numpy()
    nats, mask = token_losses(model, batch, mask_documents), batch.loss_mask
    trained = float(accumulate(model, batch))
    expected = float(by_hand[mask].sum())
    worst = float(np.abs(nats - by_hand)[mask].max(initial=0.0))
    error = abs(trained - expected) / max(abs(expected), 1e-12)
    statement = (
        f"training's loss is that of the {batch.n_targets:,} targets and of nothing else: "
        f"{trained:.4f} nats, by hand {expected:.4f} (relative difference {error:.1e}); "
        f"the largest difference of one token is {worst:.1e} nats"
    )
    numbers = {"nats": trained, "by_hand": expected, "relative": error, "largest": worst}
    return Proof("loss", error < TOLERANCE and worst < TOKEN_TOLERANCE, statement, numbers)


def _changed_losses(
    model: Transformer, batch: Batch, mask_documents: bool, where: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the nats after every token at the places `where` was replaced by another."""
    rng, vocab_size = np.random.default_rng(0), model.config.vocabulary
    steps = rng.integers(1, vocab_size, batch.tokens.shape) if vocab_size > 1 else 0
    tokens = np.where(where, (batch.tokens + steps) % vocab_size, batch.tokens)
    targets = np.where(where, (batch.targets + steps) % vocab_size, batch.targets)
    return token_losses(model, replace(batch, tokens=tokens, targets=targets), mask_documents)


def _documents_to_change(batch: Batch) -> list[tuple[int, int]]:
    """Choose (row, segment) pairs: first documents before later ones, fullest rows first."""
    last = batch.segment_ids.max(axis=1, initial=-1).tolist()
    pairs = [(row, segment) for row, end in enumerate(last) for segment in range(end + 1)]
    return sorted(pairs, key=lambda pair: (pair[1], -last[pair[0]], pair[0]))[:N_PERTURBED]


def _prove_isolation(model: Transformer, batch: Batch, mask_documents: bool) -> Proof:
    """Change one document after the other and look at the loss of all others, bit by bit."""
    before = token_losses(model, batch, mask_documents)
    n_own = n_later = n_leaks = n_elsewhere = n_far = 0
    total = 0.0
    chosen = _documents_to_change(batch)
    for row, segment in chosen:
        own = np.zeros(before.shape, dtype=bool)
        own[row] = batch.segment_ids[row] == segment
        later = np.zeros(before.shape, dtype=bool)
        later[row] = batch.segment_ids[row] > segment
        difference = np.abs(_changed_losses(model, batch, mask_documents, own) - before)
        changed = difference != 0
        n_own += int((changed & own).sum())
        n_later += int((later & batch.loss_mask).sum())
        n_leaks += int((changed & later & batch.loss_mask).sum())
        total += float(difference[changed & later & batch.loss_mask].sum())
        others = batch.loss_mask & ~own & ~later
        n_elsewhere += int(others.sum())
        n_far += int((changed & others).sum())
    moved = f"{len(chosen)} documents changed in turn (their own loss moved at {n_own:,} places): "
    numbers = {
        "n_documents_changed": len(chosen),
        "n_own_changed": n_own,
        "n_later": n_later,
        "n_later_changed": n_leaks,
        "n_elsewhere": n_elsewhere,
        "n_elsewhere_changed": n_far,
        "mean_change_nats": total / max(n_leaks, 1),
    }
    if mask_documents:
        statement = (
            moved
            + f"{n_leaks + n_far:,} of {n_later + n_elsewhere:,} places of other documents moved, "
            + f"{n_later:,} of them later in the same row"
        )
        passed = n_own > 0 and n_leaks == n_far == 0
        return Proof("documents are isolated", passed, statement, numbers)
    statement = (
        moved
        + f"LEAK into {n_leaks:,} of {n_later:,} places of later documents of the row, "
        + f"{total / max(n_leaks, 1):.4f} nats a place; {n_far:,} of {n_elsewhere:,} places "
        + "elsewhere moved. Attention crosses documents by choice (mask_documents = false)"
    )
    passed = n_own > 0 and n_far == 0 and (n_leaks > 0 or n_later == 0)
    return Proof("documents leak, as chosen", passed, statement, numbers)


def _prove_causality(model: Transformer, batch: Batch, mask_documents: bool) -> Proof:
    """Change one token in the middle of each row and look at everything before it."""
    before = token_losses(model, batch, mask_documents)
    real = batch.segment_ids >= 0
    where = np.zeros(before.shape, dtype=bool)
    earlier = np.zeros(before.shape, dtype=bool)
    for row in range(batch.n_rows):
        middle = int(real[row].sum()) // 2
        where[row, middle] = real[row, middle]
        earlier[row, :middle] = batch.loss_mask[row, :middle]
    changed = _changed_losses(model, batch, mask_documents, where) != before
    n_earlier, n_seen = int(earlier.sum()), int((changed & earlier).sum())
    n_own = int((changed & where).sum())
    statement = (
        f"one token changed in each of {batch.n_rows} rows (its own loss moved in {n_own}): "
        f"{n_seen:,} of {n_earlier:,} places before it moved"
    )
    numbers = {"n_earlier": n_earlier, "n_earlier_changed": n_seen, "n_own_changed": n_own}
    return Proof("nothing looks ahead", n_seen == 0 and n_own > 0, statement, numbers)


def _cut_short(batch: Batch) -> Batch:
    """Turn the last third of each row into padding."""
    begin = batch.tokens.shape[1] - max(batch.tokens.shape[1] // 3, 1)
    arrays = {name: array.copy() for name, array in vars(batch).items()}
    for name, empty in (("tokens", 0), ("targets", 0), ("positions", 0), ("loss_mask", False)):
        arrays[name][:, begin:] = empty
    for name in ("segment_ids", "document_ids"):
        arrays[name][:, begin:] = -1
    return Batch(**arrays)


def _gradients(
    model: Transformer, batch: Batch, accumulate: Accumulate
) -> tuple[list[Tensor], NDArray[np.float32]]:
    """Return [sum of nats, gradient of each weight], and |gradient| at each input place (B, T)."""
    kept: list[Tensor] = []

    def keep(_module: object, _inputs: object, embedded: Tensor) -> None:
        embedded.retain_grad()
        kept.append(embedded)

    model.zero_grad(set_to_none=True)
    handle = model.tok_embeddings.register_forward_hook(keep)
    try:
        nats = accumulate(model, batch)
    finally:
        handle.remove()
    sizes = [torch.zeros(e.shape[:2]) if e.grad is None else e.grad.abs().amax(-1) for e in kept]
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [nats, *grads], torch.cat(sizes).float().cpu().numpy()


def _prove_padding(model: Transformer, batch: Batch, accumulate: Accumulate) -> Proof:
    """Look at the gradient on padding, and change what stands there."""
    made = (batch.segment_ids < 0).mean() < 0.1  # too little to be sure of
    padded = _cut_short(batch) if made else batch
    padding = padded.segment_ids < 0
    expected, sizes = _gradients(model, padded, accumulate)
    n_padding, n_reached = int(padding.sum()), int((sizes[padding] != 0).sum())
    n_real = int((sizes[~padding] > 0).sum())
    vocab_size = model.config.vocabulary
    drawn = np.random.default_rng(1).integers(0, vocab_size, (2, *padding.shape))
    tokens = np.where(padding, drawn[0], padded.tokens)
    targets = np.where(padding, drawn[1], padded.targets)
    found, _ = _gradients(model, replace(padded, tokens=tokens, targets=targets), accumulate)
    n_moved = sum(not torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    statement = (
        f"gradient reaches {n_reached:,} of {n_padding:,} places of padding "
        f"{'(made by cutting the rows short) ' if made else ''}and {n_real:,} of "
        f"{int((~padding).sum()):,} others; with other ids and targets on padding {n_moved} of "
        f"{len(expected)} tensors (loss, gradients) change"
    )
    numbers = {"n_padding": n_padding, "n_padding_reached": n_reached, "n_moved": n_moved}
    passed = n_reached == 0 and n_moved == 0 and n_real > 0
    return Proof("padding has no say", passed, statement, numbers)
