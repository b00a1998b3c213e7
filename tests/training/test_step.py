"""One update: what counts in the loss, and that its parts add up however they are cut."""

import math

import numpy as np
import pytest
import torch

from ladderlm.errors import DataError, TrainingError
from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.transformer import Transformer
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.training.compute import Compute
from ladderlm.training.guards import explain_memory
from ladderlm.training.step import accumulate_gradients
from reference.checks import (
    check_accumulation,
    check_copy_task,
    check_identity_model,
    check_padding,
    counting_batch,
    one_step,
    ragged_batch,
    train_on,
)
from reference.hand_made import make_batch, make_model


@pytest.mark.parametrize("mask_documents", [True, False])
def test_padding_moves_neither_loss_nor_gradient(mask_documents):
    """T01: nine tenths padding, whose ids and targets are changed: bit-equal."""
    check_padding(mask_documents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accumulation_is_exact_for_ragged_rows(dtype):
    """T02: 8 ragged rows as 1x8, 2x4 and 8x1; loss is all nats over all real tokens."""
    check_accumulation(dtype)


def test_the_loss_of_an_identity_model_is_the_value_by_hand():
    """T06: a model that knows the successor of each id, on counting documents."""
    check_identity_model()


def test_a_token_two_places_on_cannot_be_learned_and_the_next_one_can():
    """T06: each letter is followed by its capital and then by any letter."""
    check_copy_task()


def test_a_counting_sequence_is_overfitted():
    """T06: the next number is always known."""
    model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2, max_seq_len=24, vocab_size=32))
    init_weights(model, 1)
    losses = train_on(model, lambda step: counting_batch(step), 60)
    assert losses[0] == pytest.approx(math.log(32), abs=0.2)
    assert losses[-1] < 0.05


def test_a_row_of_padding_alone_changes_nothing():
    """T01: an empty row adds neither nats nor gradient."""
    model = make_model()
    gradients = []
    for rows in ([[[1, 5, 9, 2]]], [[[1, 5, 9, 2]], []]):
        model.zero_grad()
        batch = make_batch(rows, 8)
        nats = accumulate_gradients(Compute(model), batch, batch.n_targets, 1, True)
        gradients.append([nats, *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("where", ["layers.0.attention.wq.weight", "output.weight"])
def test_a_weight_that_is_not_a_number_stops_before_the_optimizer_moves(where):
    """T09: the step and the documents are named, nothing is changed."""
    model = make_model()
    optimizer = build_optimizer(model, OptimConfig())
    with torch.no_grad():
        dict(model.named_parameters())[where].view(-1)[3] = math.nan
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TrainingError, match="step 7: loss nan") as caught:
        one_step(model, optimizer, ragged_batch(), n_targets=10, step=7, micro_batch_seqs=8)
    assert "documents 0, 1, 2" in str(caught.value)
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b) or a.isnan().any()
    assert not optimizer.state


def test_an_infinite_gradient_with_a_finite_loss_stops_too():
    """T09: the loss alone does not show everything."""
    model = make_model()
    model.norm.weight.register_hook(lambda g: g * math.inf)
    with pytest.raises(TrainingError, match="gradient norm"):
        one_step(
            model,
            build_optimizer(model, OptimConfig()),
            ragged_batch(),
            n_targets=10,
            micro_batch_seqs=8,
        )


@pytest.mark.parametrize("name", ["tokens", "targets"])
@pytest.mark.parametrize("token", [50, -1, 2**40])
def test_an_id_outside_the_vocabulary_is_refused_before_the_model_sees_it(token, name):
    """T17: a clear error instead of an index out of range."""
    batch = ragged_batch()
    array = getattr(batch, name).copy()
    array[2, 1] = token
    arrays = {**vars(batch), name: array}
    with pytest.raises(DataError, match=r"in \[0, 50\)"):
        type(batch)(**arrays).check_vocabulary(50)
    batch.check_vocabulary(50)


def test_documents_are_masked_only_if_asked():
    model = make_model()
    batch = make_batch([[[1, 5, 9, 2], [1, 7, 8, 2]]], 8)
    masked, open_ = (
        float(accumulate_gradients(Compute(model), batch, 6, 1, mask_documents))
        for mask_documents in (True, False)
    )
    alone = sum(
        float(accumulate_gradients(Compute(model), make_batch([[ids]], 8), 6, 1, True))
        for ids in ([1, 5, 9, 2], [1, 7, 8, 2])
    )
    assert masked == pytest.approx(alone, rel=1e-6)
    assert open_ != pytest.approx(alone, rel=1e-3)
    assert np.isfinite(open_)


@pytest.mark.parametrize(
    ("error", "n_rows", "fix"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 8, "seqs to 4"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 8, "seqs to 4"),
        (MemoryError(), 1, "shorter data.seq_len"),
    ],
)
def test_exhausted_memory_names_what_to_set(error, n_rows, fix):
    """T12."""
    wanted = pytest.raises(TrainingError, match="step 3: out of memory")
    with wanted as caught, explain_memory(n_rows, 3):
        raise error
    assert fix in str(caught.value)


def test_other_errors_are_not_taken_for_exhausted_memory():
    with pytest.raises(RuntimeError, match="shapes differ"), explain_memory(8, 3):
        raise RuntimeError("shapes differ")
