"""The reference backend is Meta's order of operations to the bit; the fast one is close."""

from dataclasses import replace

import pytest
import torch

from ladderlm.model.transformer import Transformer
from reference.hand_made import make_model
from reference.meta_order import logits_in_metas_order

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def build(attention, dtype, **fields):
    model = make_model(dim=64, n_heads=4, max_seq_len=2048, attention=attention, **fields)
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_kv_heads", [None, 1, 2])
def test_the_reference_backend_gives_metas_logits_to_the_bit(n_kv_heads, dtype):
    model = build("reference", dtype, n_kv_heads=n_kv_heads)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    tokens = torch.randint(50, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = logits_in_metas_order(weights, model.config, tokens)
        assert torch.equal(model(tokens), expected)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
)
def test_the_fast_path_agrees_at_positions_up_to_2048(dtype, tolerance):
    """Relative is max|a - b| / max|b|; half precision: a few steps of the last bit."""
    reference = build("reference", dtype, n_kv_heads=2)
    fast = Transformer(replace(reference.config, attention="sdpa")).to(dtype).eval()
    fast.load_state_dict(reference.state_dict())
    tokens = torch.randint(50, (1, 2048), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(tokens)
        difference = (fast(tokens) - expected).abs().max() / expected.abs().max()
    assert float(difference) <= tolerance


def test_a_model_in_half_precision_keeps_its_angles_in_float32():
    """In bfloat16 the cosines of neighbouring positions would be the same number."""
    model = build("sdpa", torch.bfloat16)
    assert model.norm.weight.dtype == torch.bfloat16
    assert model.angles.dtype == torch.float32
    assert torch.equal(model.angles, Transformer(model.config).angles)
    assert model.double().angles.dtype == torch.float64
    assert model.float().angles.dtype == torch.float32
    assert model.to("meta").angles.device.type == "meta"
