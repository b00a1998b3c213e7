"""Muon: singular values driven to about 1, updates as by the slow twin, state kept exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.checkpoint.layout import list_checkpoints, newest_good
from ladderlm.checkpoint.load import load_optimizer, load_state
from ladderlm.checkpoint.save import optimizer_tensors
from ladderlm.errors import CheckpointError
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer, set_learning_rate
from ladderlm.optim.muon import MuonAdamW, orthogonalize
from ladderlm.training.compute import Compute
from ladderlm.training.state import TrainState
from reference.checks import ragged_batch, update
from reference.hand_made import make_model
from reference.muon import MuonMatrix, driven, orthogonalize_slow

SHAPES = [(4, 4), (3, 8), (8, 3), (1, 5), (6, 1), (16, 12)]


def draw(shape, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


@given(st.floats(0.05, 1.0))
def test_the_quintic_drives_values_to_about_one(value):
    """Five steps bring all above a twentieth of the norm into [0.6, 1.3]."""
    assert 0.6 <= driven(value) <= 1.3


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalizing_keeps_singular_vectors_and_drives_values(shape):
    """Values well below the norm are driven too: this is what makes it more than a rescaling."""
    left, _, right = torch.linalg.svd(draw(shape, dtype=torch.float64), full_matrices=False)
    n = min(shape)
    values = torch.linspace(1.0, 0.2, n, dtype=torch.float64)
    found = orthogonalize((left * values @ right)[None])[0]
    inner = left.T @ found @ right.T
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-9)
    assert 0.6 <= inner.diagonal().min() <= inner.diagonal().max() <= 1.3
    outside = found - left @ left.T @ found @ right.T @ right
    assert outside.abs().max() < 1e-9


@settings(max_examples=25)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 1000), scale=st.floats(1e-4, 1e4))
def test_orthogonalizing_equals_the_slow_twin(shape, seed, scale):
    matrix = scale * draw(shape, seed, dtype=torch.float64)
    wanted = orthogonalize_slow(matrix.numpy())
    assert np.allclose(orthogonalize(matrix[None])[0].numpy(), wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (24, 24)])
def test_bfloat16_products_give_values_of_about_one_too(shape):
    """The direction within 2 % of float32's; the quintic leaves values anywhere in [0.7, 1.2]."""
    matrix = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    exact, found = orthogonalize(matrix), orthogonalize(matrix, half=True)
    assert found.dtype == torch.float32
    likeness = torch.cosine_similarity(exact.flatten(), found.flatten(), dim=0)
    assert likeness > 0.98
    values = torch.linalg.svdvals(found[0])
    assert values.max() < 1.3
    assert values.median() > 0.65


def test_a_zero_matrix_stays_zero():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_one_by_one(shape):
    """float32: the order of additions in a batched product may differ."""
    batch = torch.stack([draw(shape, seed) for seed in range(5)])
    one_by_one = torch.cat([orthogonalize(matrix[None]) for matrix in batch])
    assert torch.allclose(orthogonalize(batch), one_by_one, atol=1e-5)


def test_a_transposed_matrix_gives_the_transposed_update():
    matrix = draw((5, 9), dtype=torch.float64)[None]
    assert torch.allclose(orthogonalize(matrix.mT), orthogonalize(matrix).mT, atol=1e-12)


def optimizer_of(weights, rule="muon", **options):
    group = {"params": weights, "names": [str(i) for i in range(len(weights))], "rule": rule}
    group |= {"momentum": 0.9, "lr_scale": 1.0, "weight_decay": 0.3}
    return MuonAdamW([group], lr=0.1, **options)


def test_updates_equal_those_of_the_slow_twin():
    """Several shapes in one group, three steps, changing rates."""
    weights = [torch.nn.Parameter(draw(s, i, dtype=torch.float64)) for i, s in enumerate(SHAPES)]
    weights += [torch.nn.Parameter(draw((3, 8), 99, dtype=torch.float64))]  # a shape twice
    slow = [MuonMatrix(weight.detach().numpy()) for weight in weights]
    optimizer = optimizer_of(weights)
    for step, rate in enumerate((0.1, 0.05, 0.2)):
        set_learning_rate(optimizer, rate)
        for i, (weight, twin) in enumerate(zip(weights, slow, strict=True)):
            weight.grad = draw(weight.shape, 10 * step + i, dtype=torch.float64)
            twin.update(weight.grad.numpy(), learning_rate=rate, momentum=0.9, weight_decay=0.3)
        optimizer.step()
    for weight, twin in zip(weights, slow, strict=True):
        assert np.allclose(weight.detach().numpy(), twin.weight, rtol=1e-8, atol=1e-9)
        assert np.allclose(optimizer.state[weight]["momentum"].numpy(), twin.momentum, rtol=1e-12)


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_an_update_is_as_large_as_one_of_adamw(shape):
    """The root mean square of an AdamW step is 0.2 to 0.4 of the rate, whatever the shape."""
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = draw(shape)
    optimizer_of([weight]).step()
    assert 0.12 * 0.1 <= weight.detach().square().mean().sqrt() <= 0.4 * 0.1


def test_the_size_of_a_gradient_does_not_matter_and_its_direction_does():
    weights = [torch.nn.Parameter(torch.zeros(6, 4)) for _ in range(2)]
    weights[0].grad, weights[1].grad = draw((6, 4)), 1000 * draw((6, 4))
    optimizer_of(weights).step()
    assert torch.allclose(weights[0], weights[1], atol=1e-5)
    assert (weights[0] * draw((6, 4))).sum() < 0  # downhill


def test_matrices_without_a_gradient_stay():
    weights = [torch.nn.Parameter(draw((4, 4), i)) for i in range(2)]
    kept = weights[1].detach().clone()
    weights[0].grad = draw((4, 4), 5)
    optimizer = optimizer_of(weights)
    optimizer.step()
    assert torch.equal(weights[1], kept)
    assert weights[1] not in optimizer.state


def models():
    """Two equal models, under Muon and under AdamW, with equal gradients."""
    pair = []
    for name in ("muon", "adamw"):
        model = make_model(n_layers=1)
        config = OptimConfig(name=name, weight_decay=0.2, embedding_lr_scale=3.0)
        pair.append((model, build_optimizer(model, config)))
    return pair


def test_all_but_the_layer_matrices_follow_adamw():
    """Embedding, head and gains move as under PyTorch's AdamW, bit for bit; the matrices do not."""
    (ours, muon), (theirs, adamw) = models()
    for step in range(3):
        for model, optimizer in ((ours, muon), (theirs, adamw)):
            set_learning_rate(optimizer, 0.01)
            for i, weight in enumerate(model.parameters()):
                weight.grad = draw(weight.shape, 100 * step + i)
            optimizer.step()
    others = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        same = torch.equal(weight, others[name])
        assert same == (not name.startswith("layers.") or name.endswith("norm.weight")), name


def test_each_parameter_keeps_the_state_of_its_own_rule_alone():
    model, optimizer = models()[0]
    update(model, ragged_batch(), optimizer)
    kinds = {name.split(".", 1)[1]: set() for name in optimizer_tensors(optimizer)}
    for name in optimizer_tensors(optimizer):
        kind, parameter = name.split(".", 1)
        kinds[parameter].add(kind)
    for name, _ in model.named_parameters():
        matrix = name.startswith("layers.") and not name.endswith("norm.weight")
        assert kinds[name] == ({"momentum"} if matrix else {"exp_avg", "exp_avg_sq", "step"}), name


def trained(n_updates):
    model = make_model(n_layers=1)
    state = TrainState(
        model, build_optimizer(model, OptimConfig(name="muon")), Compute(model), "abc"
    )
    for _ in range(n_updates):
        update(model, ragged_batch(), state.optimizer)
        state.step += 1
    return state


def test_a_saved_state_goes_on_bit_for_bit(tmp_path):
    """C01: two updates, save, load, two more are the same bytes as four."""
    whole = trained(4)
    half = trained(2)
    half.save(tmp_path, keep=1)
    other = trained(0)
    other.restore(newest_good(tmp_path, load_state))
    assert other.step == 2
    for name, tensor in optimizer_tensors(half.optimizer).items():
        assert torch.equal(tensor, optimizer_tensors(other.optimizer)[name]), name
    for _ in range(2):
        update(other.model, ragged_batch(), other.optimizer)
    for weight, wanted in zip(other.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(weight, wanted)


def test_the_state_of_the_other_rule_is_refused(tmp_path):
    """C14: an optimizer never goes on with a state that is not its own."""
    trained(2).save(tmp_path, keep=1)
    saved = newest_good(tmp_path, load_state)
    assert len(list_checkpoints(tmp_path)) == 1
    model = make_model(n_layers=1)
    with pytest.raises(CheckpointError):
        load_optimizer(build_optimizer(model, OptimConfig(name="adamw")), saved.optimizer, "here")
