"""Scaled rotary angles against a slow twin, and a tied head in training."""

import math

import pytest
import torch

from ladderlm.errors import ConfigError
from ladderlm.model.config import ModelConfig, RopeScaling
from ladderlm.model.init import init_weights
from ladderlm.model.rope import rope_frequencies, rope_table
from ladderlm.model.transformer import Transformer
from reference.hand_made import weights_of
from reference.transformer import reference_logits


def scaled_slowly(theta: float, width: int, scaling: RopeScaling) -> list[float]:
    """The published rule, one pair at a time in float64."""
    found = []
    for i in range(width // 2):
        frequency = theta ** (-2 * i / width)
        wavelength = 2 * math.pi / frequency
        if wavelength < scaling.original_seq_len / scaling.high_freq_factor:
            found.append(frequency)
        elif wavelength > scaling.original_seq_len / scaling.low_freq_factor:
            found.append(frequency / scaling.factor)
        else:
            share = scaling.original_seq_len / wavelength - scaling.low_freq_factor
            share /= scaling.high_freq_factor - scaling.low_freq_factor
            found.append((1 - share) * frequency / scaling.factor + share * frequency)
    return found


@pytest.mark.parametrize(
    "scaling", [RopeScaling(8.0, 1.0, 4.0, 8192), RopeScaling(32.0, 1.0, 4.0, 8192)]
)
@pytest.mark.parametrize("width", [64, 128])
def test_angles_are_scaled_by_the_published_rule(width, scaling):
    found = rope_frequencies(width, 500000.0, scaling)
    slow = torch.tensor(scaled_slowly(500000.0, width, scaling), dtype=torch.float64)
    torch.testing.assert_close(found.double(), slow, rtol=1e-5, atol=0)
    ratio = rope_frequencies(width, 500000.0) / found
    assert ratio[0] == 1
    assert ratio[-1] == scaling.factor
    assert ((ratio > 1) & (ratio < scaling.factor)).any()  # some pairs lie in the blend


def test_without_scaling_the_angles_are_what_they_were():
    plain = 1.0 / 10000.0 ** (torch.arange(0, 16, 2).float() / 16)
    assert torch.equal(rope_frequencies(16, 10000.0), plain)
    table = rope_table(16, 9, 10000.0)
    assert torch.equal(table[..., 0], torch.outer(torch.arange(9).float(), plain).cos())


def test_the_reference_backend_takes_metas_complex_numbers():
    """Their last bits are why its logits are Meta's to the bit; see docs/interop.md."""
    plain = 1.0 / (10000.0 ** (torch.arange(0, 16, 2)[:8].float() / 16))
    angles = torch.outer(torch.arange(2048), plain).float()
    meta = torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
    fields = {"dim": 32, "n_heads": 2, "vocab_size": 9, "max_seq_len": 2048}
    assert torch.equal(Transformer(ModelConfig(**fields, attention="reference")).angles, meta)
    fast = Transformer(ModelConfig(**fields)).angles
    assert torch.equal(fast, rope_table(16, 2048, 10000.0))
    torch.testing.assert_close(fast, meta, rtol=0, atol=1.2e-7)


def test_the_model_uses_the_scaled_angles():
    fields = {"dim": 16, "n_heads": 2, "vocab_size": 20, "rope_theta": 500000.0}
    config = ModelConfig(**fields, rope_scaling_factor=8.0, rope_original_seq_len=64)
    angles = Transformer(config).angles
    expected = rope_table(8, 256, 500000.0, RopeScaling(8.0, 1.0, 4.0, 64))
    assert torch.equal(angles, expected)
    assert not torch.equal(angles, Transformer(ModelConfig(**fields)).angles)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"rope_scaling_factor": 0.5}, "at least 1"),
        ({"rope_low_freq_factor": 4.0}, "below model.rope_high_freq_factor = 4.0, got 4.0"),
        ({"rope_high_freq_factor": 0.5}, "below model.rope_high_freq_factor = 0.5, got 1.0"),
        ({"rope_original_seq_len": 0}, "at least 1"),
    ],
)
def test_scaling_that_cannot_be_is_refused(fields, word):
    with pytest.raises(ConfigError, match=word):
        ModelConfig(**fields)


def test_a_tied_head_gives_the_logits_of_the_reference_and_learns_from_both_uses():
    config = ModelConfig(
        dim=16, n_layers=1, n_heads=2, vocab_size=30, multiple_of=8, tied_head=True
    )
    model = Transformer(config)
    init_weights(model, 3)
    weights = weights_of(model)
    slow = reference_logits(
        {**weights, "output.weight": weights["tok_embeddings.weight"]}, config, [1, 2, 3, 4]
    )
    found = model(torch.tensor([[1, 2, 3, 4]]))
    torch.testing.assert_close(found[0].double(), torch.tensor(slow), rtol=1e-4, atol=1e-5)
    assert 0.3 < float(found.detach().std()) < 3  # neither a flat start nor a wild one
    found.logsumexp(-1).sum().backward()
    gradient = model.tok_embeddings.weight.grad
    assert gradient is not None
    assert (gradient.abs().sum(1) > 0).all()  # rows that were not looked up learn as the head
