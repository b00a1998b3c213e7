"""Starting weights."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.loss import token_nats
from ladderlm.model.transformer import Transformer

CONFIG = ModelConfig(dim=64, n_layers=3, n_heads=4, vocab_size=500)


def fresh(seed=1, config=CONFIG):
    model = Transformer(config)
    init_weights(model, seed)
    return model


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@pytest.mark.parametrize("n_layers", [1, 8])
def test_the_first_loss_is_the_logarithm_of_the_vocabulary(n_layers, mlp):
    config = ModelConfig(dim=64, n_layers=n_layers, n_heads=4, vocab_size=500, mlp=mlp)
    model = fresh(config=config)
    tokens = torch.randint(0, 500, (4, 65), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = model.hidden(tokens[:, :-1])
        nats = token_nats(hidden, model.output.weight, tokens[:, 1:])
    # logits have standard deviation 0.1, which adds its variance / 2 = 0.005, and noise of 256
    assert float(nats.mean()) == pytest.approx(math.log(500), abs=0.05)


def test_the_spread_of_reading_matrices_is_the_one_asked_for():
    model = fresh(config=replace(CONFIG, init_std=0.5))
    for weight in (model.layers[0].attention.wq.weight, model.layers[2].feed_forward.w1.weight):
        assert float(weight.detach().std()) == pytest.approx(0.5, rel=0.1)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(7)
    one = fresh(seed=3)
    torch.manual_seed(8)
    two, other = fresh(seed=3), fresh(seed=4)
    for (name, a), b, c in zip(
        one.named_parameters(), two.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert name.endswith("norm.weight") or not torch.equal(a, c), name


def test_weights_do_not_depend_on_the_order_of_declaration():
    class Backwards(Transformer):
        def __init__(self, config):
            super().__init__(config)
            self._modules = dict(reversed(list(self._modules.items())))
            for layer in self.layers:
                layer._modules = dict(reversed(list(layer._modules.items())))
                layer.attention._modules = dict(reversed(list(layer.attention._modules.items())))

    backwards = Backwards(CONFIG)
    init_weights(backwards, 1)
    forwards = fresh()
    assert next(iter(dict(backwards.named_parameters()))) == "output.weight"
    assert next(iter(dict(forwards.named_parameters()))) == "tok_embeddings.weight"
    found = dict(backwards.named_parameters())
    for name, weight in forwards.named_parameters():
        assert torch.equal(weight, found[name]), name


def test_no_weight_is_left_unset_and_the_stream_keeps_its_size():
    model = Transformer(CONFIG)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(math.nan)
    init_weights(model, 1)
    assert all(weight.isfinite().all() for weight in model.parameters())
    x = model.tok_embeddings(torch.arange(200).view(1, -1))
    for layer in model.layers:
        x = layer(x, model.angles[:200].unsqueeze(0))
        assert 0.7 < float(x.detach().std()) < 1.5


def test_norm_gains_start_at_one():
    for name, weight in fresh().named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(weight, nn.Parameter(torch.ones(64))), name
