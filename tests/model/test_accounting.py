"""Parameter and FLOP formulas against the built model and PyTorch's own counter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from ladderlm.errors import ConfigError
from ladderlm.model.accounting import (
    count_params,
    forward_flops_per_token,
    train_flops_6nd,
    train_flops_per_token,
)
from ladderlm.model.config import ModelConfig
from ladderlm.model.loss import token_nats
from ladderlm.model.transformer import Transformer
from reference.hand_made import make_model
from reference.transformer import meta_ffn_width

SHAPES = st.fixed_dictionaries(
    {
        "dim": st.sampled_from([8, 16, 24]),
        "n_layers": st.integers(1, 3),
        "n_heads": st.sampled_from([2, 4]),
        "n_kv_heads": st.sampled_from([None, 1, 2]),
        "vocab_size": st.integers(2, 60),
        "mlp": st.sampled_from(["swiglu", "gelu", "relu2"]),
        "qk_norm": st.booleans(),
        "value_embeddings": st.integers(0, 1),
        "ffn_dim": st.sampled_from([None, 20]),
        "multiple_of": st.sampled_from([1, 8]),
    }
)


@settings(max_examples=40)
@given(shape=SHAPES)
def test_counted_parameters_equal_those_of_the_built_model(shape):
    config = ModelConfig(**shape)
    sizes = {name: p.numel() for name, p in Transformer(config).named_parameters()}
    count = count_params(config)
    assert count.total == sum(sizes.values())
    assert count.embedding == sum(n for name, n in sizes.items() if "embeddings" in name)
    assert count.head == sizes["output.weight"]
    assert count.norms == sum(n for name, n in sizes.items() if name.endswith("norm.weight"))
    assert count.n_matmul == count.total - count.embedding - count.norms


def test_the_head_is_counted_once_and_is_not_tied_to_the_embedding():
    """T13: one matrix looks up, the other multiplies; only the second is in N."""
    model = make_model()
    assert model.output.weight.data_ptr() != model.tok_embeddings.weight.data_ptr()
    count = count_params(model.config)
    assert count.n_matmul == count.matrices + 50 * 16


@pytest.mark.parametrize(
    ("dim", "multiplier", "multiple_of", "width"),
    [
        (4096, None, 256, 11008),
        (5120, None, 256, 13824),
        (6656, None, 256, 17920),
        (8192, None, 256, 22016),
        (8192, 1.3, 4096, 28672),
        (4096, 1.3, 1024, 14336),
    ],
)
def test_the_swiglu_width_is_that_of_the_published_models(dim, multiplier, multiple_of, width):
    config = ModelConfig(
        dim=dim, n_heads=32, ffn_dim_multiplier=multiplier, multiple_of=multiple_of
    )
    assert config.ffn_width == width == meta_ffn_width(dim, multiple_of, multiplier)


@given(
    dim=st.integers(1, 3000),
    multiple_of=st.integers(1, 300),
    multiplier=st.none() | st.floats(0.5, 3.0),
)
def test_the_swiglu_width_follows_metas_rule(dim, multiple_of, multiplier):
    config = ModelConfig(
        dim=2 * dim, n_heads=1, multiple_of=multiple_of, ffn_dim_multiplier=multiplier
    )
    assert config.ffn_width == meta_ffn_width(2 * dim, multiple_of, multiplier)


def test_the_counts_of_llama_2_7b_are_the_published_ones():
    config = ModelConfig(
        dim=4096, n_layers=32, n_heads=32, vocab_size=32000, multiple_of=256, max_seq_len=4096
    )
    assert count_params(config).total == 6_738_415_616


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@pytest.mark.parametrize("n_kv_heads", [None, 1])
@pytest.mark.parametrize("seq_len", [1, 8, 33])
def test_counted_flops_equal_those_of_pytorchs_counter(seq_len, n_kv_heads, mlp):
    """The counter sees the masked half of the attention matrix too; ours counts what is causal.

    The reference backend multiplies each query with all `seq_len` keys, of which a causal query
    sees (seq_len + 1) / 2 on average. The difference is added to our count before comparing.
    """
    model = make_model(attention="reference", mlp=mlp, n_kv_heads=n_kv_heads)
    config, batch = model.config, 3
    tokens = torch.zeros(batch, seq_len, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        hidden = model.hidden(tokens)
        loss = token_nats(hidden, model.output.weight, tokens).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    n_positions = batch * seq_len
    unseen_keys = seq_len - (seq_len + 1) / 2
    unseen = 4 * config.n_heads * config.head_dim * config.n_layers * unseen_keys * n_positions
    counted = forward_flops_per_token(config, seq_len) * n_positions + unseen
    assert forward.get_total_flops() == counted
    trained = train_flops_per_token(config, seq_len) * n_positions + 3 * unseen
    assert forward.get_total_flops() + backward.get_total_flops() == trained


def test_6nd_is_the_exact_count_without_attention():
    config = make_model().config
    attention = 3 * 4 * config.dim * (8 + 1) / 2 * config.n_layers
    exact = (train_flops_per_token(config, 8) - attention) * 100
    assert train_flops_6nd(config, 100) == exact


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"dim": 10, "n_heads": 4}, "must split into model.n_heads = 4 heads .*, got 10"),
        ({"dim": 12, "n_heads": 4}, "must split into .* of equal and even width, got 12"),
        (
            {"dim": 16, "n_heads": 4, "n_kv_heads": 3},
            "n_heads must be a multiple of model.n_kv_heads = 3, got 4",
        ),
        ({"n_layers": 0}, "n_layers"),
        ({"n_layers": 2**40}, "n_layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"norm_eps": 0.0}, "norm_eps"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(fields, word):
    with pytest.raises(ConfigError, match=word):
        ModelConfig(**fields)


def test_a_model_without_a_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="vocab_size"):
        Transformer(ModelConfig())
