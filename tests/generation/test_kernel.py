"""The compiled decoder gives the model's own logits and texts."""

import shutil

import pytest
import torch

from ladderlm.errors import ConfigError
from ladderlm.generation import kernel
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.decoder import Decoder
from ladderlm.generation.kernel import CompiledDecoder
from reference.generation import generate
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_texts", [2, 3, 4, 8])
def test_a_text_has_the_same_logits_alone_and_in_a_batch(n_texts, dtype):
    """To the bit, for every number of texts that remains beside the tiles of the kernel."""
    model = make_model(n_kv_heads=2, ffn_dim=37, vocab_size=51).eval()
    decoder = CompiledDecoder(model, dtype)
    tokens = torch.randint(0, 50, (n_texts, 12), generator=torch.Generator().manual_seed(1))

    def read(rows):
        caches = decoder.make_caches(len(rows), 12)
        return torch.cat([decoder.step(rows[:, i : i + 1], caches, i) for i in range(12)], 1)

    with torch.inference_mode():
        together, whole = read(tokens), model(tokens)
        assert torch.equal(together, torch.cat([read(row) for row in tokens.split(1)]))
    atol = 5e-5 if dtype == torch.float32 else 0.05 * float(whole.abs().max())
    torch.testing.assert_close(together, whole, rtol=0, atol=atol)


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
    """G03: single texts and batches, which get smaller as texts end."""
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
        with pytest.raises(ConfigError, match="--compile needs a LLaMA model on the CPU"):
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
