"""The arrangement for decoding gives the model's own logits."""

import pytest
import torch

from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.decoder import Decoder, can_decode
from reference.generation import generate
from reference.hand_made import make_model

TOKENS = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@pytest.mark.parametrize("n_kv_heads", [None, 2, 1])
@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 1, 5, 7]])
def test_logits_equal_those_of_the_model(pieces, n_kv_heads, mlp):
    """G03: whole, in pieces and one by one; grouped heads, both MLPs."""
    model = make_model(n_kv_heads=n_kv_heads, mlp=mlp).eval()
    assert can_decode(model)
    decoder, at = Decoder(model), 0
    with torch.inference_mode():
        whole = model(TOKENS)
        caches = decoder.make_caches(3, 20)
        for n in pieces:
            found = decoder.step(TOKENS[:, at : at + n], caches, at)
            # another order of summing float32
            torch.testing.assert_close(found, whole[:, at : at + n], rtol=0, atol=3e-5)
            at += n


def test_half_precision_stays_near_and_keeps_its_caches_small():
    model = make_model(n_kv_heads=2).eval()
    decoder = Decoder(model, torch.bfloat16)
    with torch.inference_mode():
        caches = decoder.make_caches(3, 20)
        whole, found = model(TOKENS), decoder.step(TOKENS, caches, 0)
    assert caches[0].keys.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert float((found - whole).abs().max()) < 0.05 * float(whole.abs().max())  # 8 bits
    assert not torch.equal(found, whole)


def test_the_model_is_left_as_it_is():
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    Decoder(model, torch.bfloat16)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert model.training


def test_a_later_token_changes_no_earlier_logit():
    """T08: to the bit."""
    decoder = Decoder(make_model().eval())
    changed = TOKENS.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 50
    with torch.inference_mode():
        one, other = (decoder.step(t, decoder.make_caches(3, 20), 0) for t in (TOKENS, changed))
    assert torch.equal(one[:, :12], other[:, :12])
    assert not torch.equal(one[:, 12:], other[:, 12:])


def test_greedy_texts_are_those_of_the_model():
    """G03: float32, with cache and without."""
    model = make_model(n_kv_heads=2).eval()
    prompts = [[1, i, 2 * i] for i in range(1, 21)]
    greedy = SamplingConfig(temperature=0.0)
    expected = generate(model, prompts, 40, greedy, frozenset())
    found = generate(Decoder(model), prompts, 40, greedy, frozenset())
    assert [c.tokens for c in found] == [c.tokens for c in expected]


def test_a_model_with_an_unknown_part_is_left_to_its_own_forward_pass():
    assert not can_decode(make_model(attention="reference"))
    model = make_model()
    model.layers[1].attention.q_norm = torch.nn.LayerNorm(4)
    assert not can_decode(model)
    model = make_model()
    model.layers[0].feed_forward.w4 = torch.nn.Linear(2, 2)
    assert not can_decode(model)
