"""Checks of one update that several tests call, and that planted bugs must fail."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ladderlm.data.batch import Batch
from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.transformer import Transformer
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.training import step as step_module
from ladderlm.training.compute import Compute
from ladderlm.training.config import ExecutionConfig
from ladderlm.training.run_config import RunConfig
from ladderlm.training.state import TrainState
from reference.hand_made import make_batch, make_model

__all__ = [
    "check_accumulation",
    "check_copy_task",
    "check_identity_model",
    "check_padding",
    "counting_batch",
    "one_step",
    "ragged_batch",
    "train_on",
]


def ragged_batch() -> Batch:
    """Return 8 rows of very different numbers of real tokens, 46 targets in all."""
    rng = np.random.default_rng(0)
    rows = [[[1, *rng.integers(3, 50, n - 1).tolist(), 2]] for n in (15, 1, 9, 2, 1, 12, 1, 5)]
    return make_batch(rows, 16)


def one_step(
    model: Transformer, optimizer: torch.optim.Optimizer, batch: Batch, **changes: Any
) -> step_module.Update:
    """Make the first update from a batch as one process does, but for the changes."""
    given: dict[str, Any] = {"n_targets": batch.n_targets, "step": 1, "micro_batch_seqs": 3}
    given |= {"compute": None, "grad_clip": 1.0} | changes
    state = TrainState(model, optimizer, given["compute"] or Compute(model), "test")
    state.step = given["step"] - 1
    config = RunConfig(
        optim=OptimConfig(grad_clip=given["grad_clip"]),
        execution=ExecutionConfig(micro_batch_seqs=given["micro_batch_seqs"]),
    )
    return step_module.train_step(state, batch, given["n_targets"], config)


def gradients_of(
    model: Transformer, batch: Batch, micro_batch_seqs: int, mask_documents: bool = True
) -> list[torch.Tensor]:
    """Return [sum of nats, gradient of each parameter]."""
    model.zero_grad()
    nats = step_module.accumulate_gradients(
        Compute(model), batch, batch.n_targets, micro_batch_seqs, mask_documents
    )
    return [nats, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def check_padding(mask_documents: bool = True) -> None:
    """T01: ids and targets on padding have no say."""
    model = make_model()
    batch = make_batch([[[1, 5, 9, 2]], [[1, 7, 2]]], 25)
    padding = ~batch.loss_mask
    assert padding.mean() == 0.9
    before = gradients_of(model, batch, 2, mask_documents)
    for token, target in ((49, 48), (5, 9)):
        arrays = dict(vars(batch))
        arrays["tokens"] = np.where(padding, token, batch.tokens)
        arrays["targets"] = np.where(padding, target, batch.targets)
        after = gradients_of(model, Batch(**arrays), 2, mask_documents)
        for a, b in zip(before, after, strict=True):
            assert torch.equal(a, b)


def check_accumulation(dtype: torch.dtype) -> None:
    """T02: one division, by the real tokens of the whole batch."""
    model, batch = make_model().to(dtype), ragged_batch()
    assert batch.n_targets == 46
    whole = gradients_of(model, batch, 8)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for micro_batch_seqs in (4, 3, 1):
        parts = gradients_of(model, batch, micro_batch_seqs)
        for a, b in zip(whole, parts, strict=True):
            # the sums are the same, their order is not: relative to the largest entry
            assert float((a - b).abs().max()) <= tolerance * max(float(a.abs().max()), 1.0)
    with torch.no_grad():
        arrays = (batch.tokens, batch.positions, batch.segment_ids)
        logits = model(*(torch.from_numpy(a) for a in arrays)).double()
        shares = torch.log_softmax(logits, -1)
        nats = -shares.gather(-1, torch.from_numpy(batch.targets)[..., None]).squeeze(-1)
        total = float(nats[torch.from_numpy(batch.loss_mask)].sum())
    assert float(whole[0]) == pytest.approx(total, rel=1e-6)
    done = update(model, batch, micro_batch_seqs=3)
    assert done.loss == pytest.approx(total / 46, rel=1e-6)


def update(
    model: Transformer,
    batch: Batch,
    optimizer: torch.optim.Optimizer | None = None,
    micro_batch_seqs: int = 64,
) -> step_module.Update:
    """Make one update."""
    optimizer = optimizer or build_optimizer(model, OptimConfig())
    return one_step(model, optimizer, batch, micro_batch_seqs=micro_batch_seqs)


def successor_model(n: int, strength: float) -> Transformer:
    """Return a model without layers' work that expects id + 1 after each id.

    Layers add nothing, the embedding of an id is its own axis, the norm scales it to sqrt(n), and
    the head gives the next id a logit of `strength` and every other id 0.
    """
    model = Transformer(ModelConfig(dim=n, n_layers=1, n_heads=1, vocab_size=n, norm_eps=1e-12))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.norm.weight.fill_(1.0)
        model.tok_embeddings.weight.copy_(torch.eye(n))
        model.output.weight.copy_(torch.eye(n).roll(1, 0) * strength / math.sqrt(n))
    return model


def check_identity_model() -> None:
    """T06: the logged loss is that of the next id, worked out by hand."""
    model = successor_model(16, 3.0)
    batch = make_batch([[[0, 1, 2, 3, 4, 5]], [[7, 8, 9], [10, 11, 12]]], 8)
    by_hand = math.log(math.exp(3.0) + 15) - 3.0
    assert update(model, batch).loss == pytest.approx(by_hand, rel=1e-6)


def counting_batch(step: int) -> Batch:
    """Return rows that count up from different numbers, modulo 32."""
    starts = [(5 * step + 3 * i) % 32 for i in range(8)]
    return make_batch([[[(start + i) % 32 for i in range(25)]] for start in starts], 24)


def copy_batch(step: int) -> Batch:
    """Return rows a A b B c C ...: 16 small letters at random, each followed by its capital."""
    drawn = np.random.default_rng(step).integers(0, 16, (16, 12))
    rows = [[letter + capital for letter in row for capital in (0, 16)] for row in drawn.tolist()]
    return make_batch([[row] for row in rows], 24)


def train_on(
    model: Transformer, batches: Callable[[int], Batch], n_steps: int, learning_rate: float = 1e-2
) -> list[float]:
    """Train and return the loss of each step."""
    optimizer = build_optimizer(model, OptimConfig(learning_rate=learning_rate, weight_decay=0.0))
    return [update(model, batches(step), optimizer).loss for step in range(n_steps)]


def check_copy_task() -> None:
    """T06: the capital is known, the letter two places on is not.

    Of the 23 targets of a row 12 are known and 11 cost ln(16). No shift at all would end at 0 and
    a double one at ln(16).
    """
    model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2, max_seq_len=24, vocab_size=32))
    init_weights(model, 1)
    losses = train_on(model, copy_batch, 100)
    expected = 11 / 23 * math.log(16)
    assert 0.97 * expected < float(np.mean(losses[-10:])) < 1.06 * expected
