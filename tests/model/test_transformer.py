"""The model against its slow twin, and what may and may not influence a logit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.generation.decoder import can_decode
from ladderlm.model.attention import attend_reference, attend_sdpa, document_mask
from ladderlm.model.init import init_weights
from ladderlm.model.loss import token_nats
from ladderlm.model.norm import RMSNorm
from ladderlm.model.rope import apply_rotary, rope_table
from ladderlm.model.transformer import Transformer
from reference.hand_made import make_batch, make_model, weights_of
from reference.transformer import reference_logits, reference_nats, rms_norm, turn

# The twin takes its angles in float64, the model keeps Meta's float32 table: at position p an
# angle is off by up to p * 6e-8, so float64 logits agree to 1e-5 and not to the last bit.
ANGLES = 1e-5
# Two orders of summing some hundred float32 numbers of size 1.
ORDER = 2e-5

TOKENS = [3, 17, 4, 44, 0, 9, 9, 31, 20, 6, 1, 48]
POSITIONS = [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]
SEGMENTS = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, -1, -1]


@pytest.mark.parametrize("backend", ["sdpa", "reference", "blocked"])
@pytest.mark.parametrize("mlp", ["swiglu", "gelu", "relu2"])
@pytest.mark.parametrize("n_kv_heads", [None, 2, 1])
def test_logits_equal_those_of_the_slow_twin(n_kv_heads, mlp, backend):
    model = make_model(n_kv_heads=n_kv_heads, mlp=mlp, attention=backend).double()
    slow = reference_logits(weights_of(model), model.config, TOKENS)
    with torch.no_grad():
        fast = model(torch.tensor([TOKENS]))[0].numpy()
    np.testing.assert_allclose(fast, slow, rtol=0, atol=ANGLES)
    assert np.abs(slow).max() > 1  # something to compare


@pytest.mark.parametrize(
    "parts",
    [{"qk_norm": True}, {"value_embeddings": 1}, {"value_embeddings": 2, "qk_norm": True}],
)
@pytest.mark.parametrize("n_kv_heads", [None, 2])
def test_further_parts_equal_those_of_the_slow_twin(parts, n_kv_heads):
    model = make_model(n_layers=3, n_kv_heads=n_kv_heads, **parts).double()
    rows = [torch.tensor([values]) for values in (TOKENS, POSITIONS, SEGMENTS)]
    slow = reference_logits(weights_of(model), model.config, TOKENS, POSITIONS, SEGMENTS)
    with torch.no_grad():
        np.testing.assert_allclose(model(*rows)[0].numpy(), slow, rtol=0, atol=ANGLES)
        caches = model.make_caches(1, 16)  # token by token, as text is generated
        steps = [model.step(torch.tensor([[t]]), caches, i)[0, 0] for i, t in enumerate(TOKENS)]
        whole = model(torch.tensor([TOKENS]))[0]
    np.testing.assert_allclose(torch.stack(steps).numpy(), whole.numpy(), rtol=0, atol=1e-9)
    assert not can_decode(model)  # its faster arrangement does not know these parts


def test_value_embeddings_change_nothing_before_they_are_trained():
    plain = Transformer(make_model().config)
    more = Transformer(make_model(value_embeddings=2).config)
    init_weights(plain, 3)
    init_weights(more, 3)
    tokens = torch.tensor([TOKENS])
    assert torch.equal(plain(tokens), more(tokens))
    more(tokens).square().mean().backward()
    assert all(table.weight.grad.abs().max() > 0 for table in more.value_embeddings)


@pytest.mark.parametrize("backend", ["sdpa", "reference", "blocked"])
def test_packed_documents_equal_those_of_the_slow_twin(backend):
    model = make_model(attention=backend).double()
    slow = reference_logits(weights_of(model), model.config, TOKENS, POSITIONS, SEGMENTS)
    rows = [torch.tensor([values]) for values in (TOKENS, POSITIONS, SEGMENTS)]
    with torch.no_grad():
        fast = model(*rows)[0].numpy()
    np.testing.assert_allclose(fast, slow, rtol=0, atol=ANGLES)


def test_token_nats_equal_those_of_the_slow_twin():
    model = make_model().double()
    targets = [*TOKENS[1:], 5]
    with torch.no_grad():
        hidden = model.hidden(torch.tensor([TOKENS]))
        nats = token_nats(hidden, model.output.weight, torch.tensor([targets]))[0].numpy()
        slow = reference_nats(model(torch.tensor([TOKENS]))[0].numpy(), targets)
    np.testing.assert_allclose(nats, slow, rtol=1e-12)


def test_a_model_in_float32_is_near_the_slow_twin():
    model = make_model()
    slow = reference_logits(weights_of(model), model.config, TOKENS)
    with torch.no_grad():
        fast = model(torch.tensor([TOKENS]))[0].numpy()
    assert fast.dtype == np.float32
    np.testing.assert_allclose(fast, slow, rtol=0, atol=ORDER + ANGLES)


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_rms_norm_has_its_epsilon_inside_the_root(eps):
    norm, x = RMSNorm(6, eps).double(), torch.linspace(-0.02, 0.03, 6, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 7.0))
        found = norm(x).numpy()
    np.testing.assert_allclose(found, rms_norm(x.numpy(), np.arange(1.0, 7.0), eps), rtol=1e-12)


def test_the_gradient_of_rms_norm_is_that_of_finite_differences():
    """The epsilon is large enough to have a say."""
    norm = RMSNorm(6, 0.3).double()
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))


def test_the_gradient_of_a_rotation_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    angles = rope_table(4, 3, 100.0).double().unsqueeze(0)
    assert torch.autograd.gradcheck(lambda x: apply_rotary(x, angles), (x,))


def test_rms_norm_casts_back_to_half_precision_before_the_gain():
    norm = RMSNorm(64, 1e-5).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(64, generator=generator))
        x = torch.randn(9, 64, generator=generator).to(torch.bfloat16)
        root = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
        meta = (x.float() * root).to(torch.bfloat16) * norm.weight
        fused = (x.float() * root * norm.weight.float()).to(torch.bfloat16)
    assert torch.equal(norm(x), meta)
    assert not torch.equal(meta, fused)  # the two orders do differ


@pytest.mark.parametrize("position", [0, 1, 37, 2047])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rotary_pairs_are_interleaved_complex_numbers(position, theta):
    x = torch.randn(1, 1, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = apply_rotary(x, rope_table(8, 2048, theta)[position : position + 1].unsqueeze(0))
    slow = [turn(head, position, theta) for head in x[0, 0].numpy()]
    # the angle itself is a float32: off by up to position * 2^-24 twice
    np.testing.assert_allclose(found[0, 0].numpy(), slow, atol=4 * (1 + position) * 2.0**-23)


def test_rotated_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    table = rope_table(8, 64, 10000.0)

    def product(i, j):
        return float(
            (
                apply_rotary(q, table[None, i : i + 1]) * apply_rotary(k, table[None, j : j + 1])
            ).sum()
        )

    assert product(9, 4) == pytest.approx(product(45, 40), abs=1e-4)
    assert product(9, 4) != pytest.approx(product(4, 9), abs=1e-2)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 8])
@pytest.mark.parametrize("seq_len", [1, 7, 64])
@pytest.mark.parametrize("attend", [attend_sdpa, attend_reference])
def test_grouped_query_attention_equals_attention_with_repeated_heads(attend, seq_len, n_kv_heads):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 8, seq_len, 4, generator=generator)
    k, v = torch.randn(2, 2, n_kv_heads, seq_len, 4, generator=generator)
    repeated = [
        torch.cat([t[:, head * n_kv_heads // 8, None] for head in range(8)], dim=1) for t in (k, v)
    ]
    assert torch.equal(attend(q, k, v, None), attend(q, *repeated, None))


@settings(max_examples=25)
@given(
    n_queries=st.integers(1, 9),
    n_before=st.integers(0, 9),
    n_kv_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_the_two_attention_backends_agree(n_queries, n_before, n_kv_heads, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, n_queries, 6, generator=generator)
    k, v = torch.randn(2, 2, n_kv_heads, n_before + n_queries, 6, generator=generator)
    torch.testing.assert_close(
        attend_sdpa(q, k, v, None), attend_reference(q, k, v, None), rtol=0, atol=ORDER
    )


def test_the_document_mask_is_what_a_reader_would_draw():
    mask = document_mask(torch.tensor([[0, 0, 1, 1, -1, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def perturbed(tokens, place):
    """Change one token of the first row."""
    other = tokens.clone()
    other[0, place] = (other[0, place] + 7) % 50
    return other


@pytest.mark.parametrize("backend", ["sdpa", "reference", "blocked"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_later_token_never_moves_an_earlier_logit(packed, training, backend):
    """T08: in training mode with dropout, in evaluation mode, packed or not."""
    model = make_model(attention=backend, dropout=0.1).train(training)
    tokens = torch.randint(0, 50, (2, 40), generator=torch.Generator().manual_seed(0))
    extra = ()
    if packed:
        segments = (torch.arange(40) >= 13).long().expand(2, -1)
        extra = (torch.arange(40).expand(2, -1) - 13 * segments, segments)

    def logits(ids):
        torch.manual_seed(5)  # the same dropout
        return model(ids, *extra).detach()

    before = logits(tokens)
    for place in (1, 12, 13, 39):
        after = logits(perturbed(tokens, place))
        assert torch.equal(after[0, :place], before[0, :place])
        assert torch.equal(after[1], before[1])  # nor another row
        assert not torch.equal(after[0, place], before[0, place])


@pytest.mark.parametrize("backend", ["sdpa", "reference", "blocked"])
def test_a_later_token_never_moves_an_earlier_logit_through_the_cache(backend):
    """T08: reading by pieces of any length with a key/value cache."""
    model = make_model(attention=backend).eval()
    tokens = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def logits(ids):
        caches, parts, at = model.make_caches(2, 12), [], 0
        for n in (5, 1, 4, 1, 1):
            parts.append(model.step(ids[:, at : at + n], caches, at))
            at += n
        return torch.cat(parts, dim=1)

    before = logits(tokens)
    for place in (3, 5, 8, 11):
        after = logits(perturbed(tokens, place))
        assert torch.equal(after[0, :place], before[0, :place])
        assert torch.equal(after[1], before[1])
        assert not torch.equal(after[0, place:], before[0, place:])


@pytest.mark.parametrize("backend", ["sdpa", "reference", "blocked"])
def test_another_document_of_the_row_never_moves_a_logit(backend):
    """T08: documents of one row do not see each other, in either direction."""
    model = make_model(attention=backend)
    first, second, third = [1, 5, 9, 13, 2], [1, 7, 7, 21, 30, 2], [1, 11, 12, 2]

    def logits(*documents):
        batch = make_batch([documents], 16)
        arrays = (batch.tokens, batch.positions, batch.segment_ids)
        return model(*(torch.from_numpy(a) for a in arrays)).detach()[0]

    before = logits(first, second, third)
    after = logits([1, 40, 41, 42, 2], second, [1, 33, 34, 2])
    assert torch.equal(after[4:9], before[4:9])
    assert not torch.equal(after[1:4], before[1:4])
    alone = logits(second)
    torch.testing.assert_close(alone[:5], before[4:9], rtol=0, atol=ORDER)


@pytest.mark.parametrize("backend", ["sdpa", "reference", "blocked"])
def test_padding_never_moves_a_logit_and_is_finite(backend):
    """T01: whatever id stands on padding."""
    model = make_model(attention=backend)
    batch = make_batch([[[1, 5, 9, 2]], [[1, 7, 2], [1, 8, 8, 2]]], 16)
    arrays = [torch.from_numpy(a) for a in (batch.tokens, batch.positions, batch.segment_ids)]
    before = model(*arrays).detach()
    other = torch.where(arrays[2] < 0, 49, arrays[0])
    after = model(other, *arrays[1:]).detach()
    real = arrays[2] >= 0
    assert torch.equal(after[real], before[real])
    assert after.isfinite().all()
    assert not torch.equal(after[~real], before[~real])


def test_logits_are_float32_in_half_precision():
    model = make_model().to(torch.bfloat16)
    assert model(torch.tensor([TOKENS])).dtype == torch.float32


def test_parameters_carry_metas_names():
    names = {name for name, _ in make_model(n_layers=1).named_parameters()}
    assert names == {
        "tok_embeddings.weight",
        "layers.0.attention.wq.weight",
        "layers.0.attention.wk.weight",
        "layers.0.attention.wv.weight",
        "layers.0.attention.wo.weight",
        "layers.0.feed_forward.w1.weight",
        "layers.0.feed_forward.w2.weight",
        "layers.0.feed_forward.w3.weight",
        "layers.0.attention_norm.weight",
        "layers.0.ffn_norm.weight",
        "norm.weight",
        "output.weight",
    }


def test_capped_logits_are_the_tanh_of_plain_ones_in_every_reading():
    """Whole passes, cached steps and the decoder's refusal, beside the uncapped model."""
    plain, capped = make_model(), make_model(logit_softcap=1.5)
    tokens = torch.tensor([[1, 5, 9, 12, 2]])
    with torch.no_grad():
        wanted = 1.5 * torch.tanh(plain(tokens) / 1.5)
        torch.testing.assert_close(capped(tokens), wanted, rtol=1e-6, atol=1e-6)
        steps = capped.step(tokens, capped.make_caches(1, 8), 0)
        torch.testing.assert_close(steps, wanted, rtol=1e-5, atol=1e-5)
    assert can_decode(plain)
    assert not can_decode(capped)  # it is read by `Transformer.step`
