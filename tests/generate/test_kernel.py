"""The compiled decoder gives the model's own logits and texts."""

import shutil

import pytest
import torch

from ladderlm.errors import ConfigError
from ladderlm.generate import kernel
from ladderlm.generate.decoder import Decoder
from ladderlm.generate.engine import generate
from ladderlm.generate.kernel import CompiledDecoder
from ladderlm.generate.sampling import SamplingConfig
from reference.hand_made import make_model

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="[cc] no C compiler")
TOKENS = torch.randint(0, 50, (1, 20), generator=torch.Generator().manual_seed(0))


@needs_compiler
@pytest.mark.parametrize("n_kv_heads", [None, 2, 1])
def test_logits_equal_those_of_the_model_one_by_one(n_kv_heads):
    """G03: after a prompt that PyTorch read; odd widths."""
    model = make_model(n_kv_heads=n_kv_heads, ffn_dim=37, vocab_size=51).eval()
    decoder = CompiledDecoder(model)
    with torch.inference_mode():
        whole, caches = model(TOKENS), decoder.make_caches(1, 20)
        found = [decoder.step(TOKENS[:, :5], caches, 0)]
        found += [decoder.step(TOKENS[:, i : i + 1], caches, i) for i in range(5, 20)]
    # another order of summing float32
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0, atol=5e-5)


@needs_compiler
def test_half_precision_is_as_near_as_that_of_the_decoder():
    model = make_model(n_kv_heads=2).eval()
    errors = []
    with torch.inference_mode():
        whole = model(TOKENS)
        for kind in (Decoder, CompiledDecoder):
            decoder = kind(model, torch.bfloat16)
            caches = decoder.make_caches(1, 20)
            found = [decoder.step(TOKENS[:, i : i + 1], caches, i) for i in range(20)]
            errors.append(float((torch.cat(found, 1) - whole).abs().max()))
    assert 0 < errors[1] <= 1.5 * errors[0]  # activations stay in float32


@needs_compiler
def test_greedy_texts_are_those_of_the_model_in_any_batch():
    """G03: single texts by the kernel, batches by PyTorch, one after the other."""
    model = make_model(n_kv_heads=2).eval()
    prompts = [[1, i, 2 * i] for i in range(1, 11)]
    greedy = SamplingConfig(temperature=0.0)
    expected = [c.tokens for c in generate(model, prompts, 40, greedy, frozenset({3}))]
    decoder = CompiledDecoder(model)
    alone = [generate(decoder, [p], 40, greedy, frozenset({3}))[0].tokens for p in prompts]
    assert alone == expected
    assert [c.tokens for c in generate(decoder, prompts, 40, greedy, frozenset({3}))] == expected


@needs_compiler
def test_what_the_kernel_does_not_know_is_refused():
    for model in (make_model(mlp="gelu"), make_model(attention="reference")):
        with pytest.raises(ConfigError, match="--compile with this model"):
            CompiledDecoder(model)
    with pytest.raises(ConfigError, match="float16"):
        CompiledDecoder(make_model(), torch.float16)


def test_a_missing_or_failing_compiler_is_an_error_with_a_way_out(monkeypatch):
    kernel._compile.cache_clear()
    monkeypatch.setenv("CC", "false")
    with pytest.raises(ConfigError, match="could not build"):
        CompiledDecoder(make_model())
    monkeypatch.delenv("CC")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ConfigError, match="no C compiler"):
        CompiledDecoder(make_model())
    kernel._compile.cache_clear()
