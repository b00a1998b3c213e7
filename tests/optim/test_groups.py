"""Who is updated how, and AdamW against its slow twin."""

import pytest
import torch

from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer, parameter_groups, set_learning_rate
from ladderlm.training.compute import Compute
from ladderlm.training.step import accumulate_gradients
from reference.adamw import AdamWNumber, clip_scale
from reference.checks import one_step
from reference.hand_made import make_batch, make_model

NO_DECAY = ("norm.weight", "tok_embeddings.weight")


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_each_parameter_is_in_exactly_one_group(name, mlp):
    """T13: by name and by identity, the untied head and the embedding each once."""
    model = make_model(mlp=mlp)
    groups = parameter_groups(model, OptimConfig(name=name))
    names = [n for group in groups for n in group["names"]]
    places = [id(p) for group in groups for p in group["params"]]
    own = dict(model.named_parameters())
    assert sorted(names) == sorted(own)
    assert places == [id(own[n]) for n in names]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_matrices_decay_and_embeddings_and_gains_do_not(name):
    """T13: decay on matrices only."""
    groups = parameter_groups(make_model(), OptimConfig(name=name, weight_decay=0.3))
    for group in groups:
        for own in group["names"]:
            assert group["weight_decay"] == (0.0 if own.endswith(NO_DECAY) else 0.3), own


def test_a_tensor_with_two_names_is_updated_once():
    """T13: were the head tied to the embedding, it would be one parameter."""
    model = make_model()
    model.output.weight = model.tok_embeddings.weight
    groups = parameter_groups(model, OptimConfig())
    names = [n for group in groups for n in group["names"]]
    assert len(names) == len(set(names)) == len(list(model.parameters()))


def test_a_frozen_parameter_is_in_no_group():
    """T13: frozen means neither updated nor decayed."""
    model = make_model()
    model.norm.weight.requires_grad_(False)
    groups = parameter_groups(model, OptimConfig())
    assert "norm.weight" not in [n for group in groups for n in group["names"]]


def test_the_embedding_has_its_own_factor_on_the_rate():
    model = make_model()
    optimizer = build_optimizer(model, OptimConfig(embedding_lr_scale=4.0))
    set_learning_rate(optimizer, 0.25)
    found = {n: g["lr"] for g in optimizer.param_groups for n in g["names"]}
    assert {n for n, rate in found.items() if rate == 1.0} == {"tok_embeddings.weight"}
    assert set(found.values()) == {0.25, 1.0}


@pytest.mark.parametrize("grad_clip", [None, 0.05, 1e6])
def test_training_steps_equal_those_of_the_slow_adamw(grad_clip):
    config = OptimConfig(weight_decay=0.4, eps=1e-6, grad_clip=grad_clip, embedding_lr_scale=2.0)
    model = make_model(dim=8, n_layers=1, n_heads=2, vocab_size=11).double()
    optimizer = build_optimizer(model, config)
    slow = {
        (name, i): AdamWNumber(float(value))
        for name, weight in model.named_parameters()
        for i, value in enumerate(weight.detach().flatten())
    }
    for step, rate in enumerate((0.01, 0.02, 0.005)):
        batch = make_batch([[[1, 3 + step, 5, 2], [1, 4, 2]]], 8)
        model.zero_grad()
        accumulate_gradients(Compute(model), batch, batch.n_targets, 1, True)
        gradients = {
            (name, i): float(value)
            for name, weight in model.named_parameters()
            for i, value in enumerate(weight.grad.flatten())
        }
        scale = clip_scale(list(gradients.values()), grad_clip) if grad_clip is not None else 1.0
        for (name, i), number in slow.items():
            number.update(
                gradients[name, i] * scale,
                learning_rate=rate * (2.0 if name == "tok_embeddings.weight" else 1.0),
                beta1=config.beta1,
                beta2=config.beta2,
                eps=config.eps,
                weight_decay=0.0 if name.endswith(NO_DECAY) else 0.4,
            )
        set_learning_rate(optimizer, rate)
        one_step(model, optimizer, batch, step=step + 1, micro_batch_seqs=1, grad_clip=grad_clip)
    for name, weight in model.named_parameters():
        for i, value in enumerate(weight.detach().flatten()):
            # float64 on both sides; only the order of operations differs
            assert float(value) == pytest.approx(slow[name, i].value, rel=1e-9, abs=1e-12), name


def test_the_reported_norm_is_that_before_clipping():
    model = make_model()
    batch = make_batch([[[1, 3, 5, 2]]], 8)
    accumulate_gradients(Compute(model), batch, batch.n_targets, 1, True)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    done = one_step(
        model, build_optimizer(model, OptimConfig()), batch, micro_batch_seqs=1, grad_clip=1e-3
    )
    assert done.grad_norm == pytest.approx(norm, rel=1e-5)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert clipped == pytest.approx(1e-3, rel=1e-2)
