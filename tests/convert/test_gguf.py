"""GGUF files, read back by the package's own reader."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from ladderlm.convert.gguf import read_gguf, write_gguf
from ladderlm.convert.hf import read_hf
from ladderlm.errors import CheckpointError
from ladderlm.model.rope import rope_frequencies
from ladderlm.tokenizer.base import BOS, EOS
from reference.foreign import write_hf_folder
from reference.hand_made import make_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="needs gguf [interop]"
)


@pytest.fixture
def model():
    return make_model(vocab_size=330, dim=64, n_kv_heads=2, ffn_dim=48)


@pytest.fixture
def source(model, tiny_tokenizer_folder, tmp_path):
    found = read_hf(write_hf_folder(tmp_path / "hf", model))
    return replace(found, tokenizer=tiny_tokenizer_folder)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8_0", None])
def test_weights_come_back_as_the_dtype_allows(dtype, source, model, tmp_path):
    (path,) = write_gguf(source, tmp_path / "out", dtype)
    found = read_gguf(tmp_path / "out")
    for name, weight in model.named_parameters():
        again = found.read(name)
        if weight.ndim == 1 or dtype in ("float32", None):
            assert torch.equal(again, weight)
        elif dtype == "q8_0" and weight.shape[1] % 32 == 0:
            scale = weight.detach().unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True) / 127
            error = (again - weight.detach()).unflatten(1, (-1, 32)).abs()
            assert (error <= 0.57 * scale).all()  # half a step, and 127 times the scale's float16
            assert error.max() > 0
        else:
            kept = torch.float16 if dtype == "q8_0" else getattr(torch, dtype)  # w2: 48 columns
            assert torch.equal(again, weight.detach().to(kept).float())
    assert path.stat().st_size > 1000


def test_the_file_says_shape_and_tokenizer_in_llama_cpps_words(
    source, tiny_tokenizer_folder, tmp_path
):
    from gguf import GGUFReader

    from ladderlm.tokenizer.load import load_tokenizer

    write_gguf(source, tmp_path / "out", "float16")
    fields = GGUFReader(tmp_path / "out/model.gguf").fields
    found = {key: field.contents() for key, field in fields.items()}
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    stated = {
        "general.architecture": "llama",
        "general.file_type": 1,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 64,
        "llama.vocab_size": 330,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
        "tokenizer.ggml.add_bos_token": True,
    }
    assert {key: found[key] for key in stated} == stated
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    pieces, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(pieces) == len(kinds) == 330  # the model has 10 rows more than the tokenizer
    assert pieces[tokenizer.bos_id : tokenizer.eos_id + 1] == [BOS, EOS]
    assert kinds[:318] == [1] * 318
    assert kinds[318:] == [3, 3] + [5] * 10
    merges = found["tokenizer.ggml.merges"]
    known = set(pieces)
    assert merges
    assert all("".join(m.split(" ")) in known and len(m.split(" ")) == 2 for m in merges)


def test_scaled_angles_are_written_as_divisors(source, tmp_path):
    config = replace(source.config, rope_scaling_factor=8.0, rope_original_seq_len=64)
    write_gguf(replace(source, config=config), tmp_path / "out")
    scales = read_gguf(tmp_path / "out").raw("rope_freqs.weight")
    plain = rope_frequencies(16, 10000.0)
    np.testing.assert_allclose(
        plain / scales, rope_frequencies(16, 10000.0, config.rope_scaling), rtol=1e-6
    )
    assert scales[0] == 1
    assert scales[-1] == 8


def test_a_tied_head_is_written_once(tiny_tokenizer_folder, tmp_path):
    model = make_model(vocab_size=320, tied_head=True)
    found = read_hf(write_hf_folder(tmp_path / "hf", model))
    write_gguf(replace(found, tokenizer=tiny_tokenizer_folder), tmp_path / "out")
    again = read_gguf(tmp_path / "out")
    assert again.config.tied_head
    assert "output.weight" not in again.raw_names


def test_without_a_tokenizer_that_fits_nothing_is_written(source, tmp_path):
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        write_gguf(replace(source, tokenizer=None), tmp_path / "out")
    small = read_hf(write_hf_folder(tmp_path / "small", make_model(vocab_size=300)))
    with pytest.raises(CheckpointError, match="320 tokens"):
        write_gguf(replace(small, tokenizer=source.tokenizer), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sentencepiece_vocabularies_keep_scores_and_kinds(tmp_path):
    import io

    import sentencepiece

    from ladderlm.convert.gguf_vocabulary import read_vocabulary

    data = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the loss of a model is a number"] * 20),
        model_writer=data,
        vocab_size=290,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(data.getvalue())
    found = read_hf(write_hf_folder(tmp_path / "hf", make_model(vocab_size=320)))
    vocabulary = read_vocabulary(replace(found, tokenizer=tmp_path / "tokenizer.model"))
    assert vocabulary["tokenizer_model"] == "llama"
    assert vocabulary["token_list"][:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert vocabulary["token_types"][:4] == [2, 3, 3, 6]
    assert len(vocabulary["token_scores"]) == len(vocabulary["token_list"]) == 320
    assert (vocabulary["bos_token_id"], vocabulary["eos_token_id"]) == (1, 2)
