"""Hugging Face folders: both dialects, both ways, and hostile ones refused before allocation."""

import importlib.util
import json
import random
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ladderlm.convert.convert import open_source
from ladderlm.convert.hf import read_hf, write_hf
from ladderlm.convert.hf_config import hf_config, read_hf_config
from ladderlm.errors import CheckpointError
from ladderlm.model.config import ModelConfig
from ladderlm.model.published import PUBLISHED_SHAPES
from reference.foreign import hf_tensors, hf_values, write_hf_folder
from reference.hand_made import make_model

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers [interop]"
)
SHAPES = {
    "MHA": {},
    "GQA": {"n_kv_heads": 2, "ffn_dim": 40},
    "LLaMA 3.1": {
        "n_kv_heads": 1,
        "rope_theta": 500000.0,
        "rope_scaling_factor": 8.0,
        "rope_original_seq_len": 256,
    },
    "LLaMA 3.2": {"n_kv_heads": 2, "tied_head": True, "norm_eps": 1e-6},
}


def build(name: str, **fields):
    return make_model(vocab_size=320, max_seq_len=2048, **SHAPES[name], **fields)


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_is_read_to_the_bit_and_written_as_others_write_it(name, tmp_path):
    """I04: q and k are permuted within each head, k over the key/value heads."""
    model = build(name)
    scaling = {}
    if name == "LLaMA 3.1":
        scaling["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        }
    source = open_source(write_hf_folder(tmp_path / "hf", model, **scaling))
    assert source.kind == "hf"
    same = {"ffn_dim": model.config.ffn_width, "multiple_of": 32, "n_kv_heads": None}
    expected = replace(model.config, **same | {"n_kv_heads": model.config.kv_heads})
    assert source.config == expected
    for parameter, weight in model.named_parameters():
        assert torch.equal(source.read(parameter), weight)
    write_hf(source, tmp_path / "again")
    written = load_file(tmp_path / "again/model.safetensors")
    theirs = hf_tensors(model)
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[key], theirs[key]) for key in theirs)
    assert read_hf(tmp_path / "again").config == expected


@needs_transformers
@pytest.mark.parametrize("name", SHAPES)
def test_transformers_gives_our_logits_of_what_we_write(name, tmp_path):
    """I04, both ways: their class reads ours, and ours reads what their class saves."""
    from transformers import LlamaForCausalLM

    model = build(name)
    write_hf(read_hf_like(model, tmp_path), tmp_path / "ours", shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "ours").eval()
    tokens = torch.randint(320, (2, 2048), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = theirs(tokens).logits, model(tokens)
    assert relative(found, expected) <= 1e-5
    theirs.save_pretrained(tmp_path / "theirs")
    source = read_hf(tmp_path / "theirs")
    assert source.config.rope_scaling == model.config.rope_scaling
    for parameter, weight in model.named_parameters():
        assert torch.equal(source.read(parameter), weight)
    with torch.no_grad():  # the comparison can fail
        broken = theirs.model.layers[0].self_attn.k_proj.weight
        broken.copy_(broken.flip(0))
        assert relative(found, theirs(tokens).logits) > 1e-3


def read_hf_like(model, tmp_path):
    """Open a model through a folder that was not written by our writer."""
    scaling = {}
    if model.config.rope_scaling_factor is not None:
        scaling = hf_config(model.config, "float32", None, None)
        scaling = {"rope_parameters": scaling["rope_parameters"]}
    return read_hf(write_hf_folder(tmp_path / "source", model, **scaling))


def relative(found, expected):
    """Return max|a - b| / max|b| of the worst row."""
    rows = zip(found, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in rows)


@needs_transformers
def test_their_tokenizer_encodes_as_ours_with_bos_first(tiny_tokenizer_folder, tmp_path):
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from ladderlm.tokenizer.load import load_tokenizer

    source = read_hf(write_hf_folder(tmp_path / "hf", build("MHA")))
    write_hf(replace(source, tokenizer=tiny_tokenizer_folder), tmp_path / "out", torch.bfloat16)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = load_tokenizer(tmp_path / "out")  # the record beside it holds
    assert ours.fingerprint == load_tokenizer(tiny_tokenizer_folder).fingerprint
    text = "def f(x):\n\treturn  12345 # it's é日"
    assert theirs(text)["input_ids"] == ours.encode(text, bos=True)
    assert theirs.decode(ours.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (generation.bos_token_id, generation.eos_token_id) == (ours.bos_id, ours.eos_id)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.dtype == torch.bfloat16
    assert config.eos_token_id == ours.eos_id
    card = (tmp_path / "out/README.md").read_text()
    assert f"| parameters | {sum(p.numel() for p in build('MHA').parameters()):,} |" in card


@pytest.mark.parametrize("name", PUBLISHED_SHAPES)
def test_published_shapes_go_through_both_dialects(name):
    config = ModelConfig(**PUBLISHED_SHAPES[name])
    both = hf_config(config, "bfloat16", 1, 2)
    width = config.ffn_width
    expected = replace(
        config,
        ffn_dim=width,
        multiple_of=32,
        ffn_dim_multiplier=None,
        n_kv_heads=config.kv_heads,
    )
    old = {k: v for k, v in both.items() if k not in ("rope_parameters", "dtype")}
    new = {k: v for k, v in both.items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")}
    for values in (both, old, new):
        assert read_hf_config(json.loads(json.dumps(values)), "config.json") == expected


REFUSED = {
    "another architecture": ({"model_type": "mistral"}, "mistral"),
    "no architecture": ({"model_type": None}, "model_type"),
    "biases": ({"attention_bias": True}, "attention_bias"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "another head width": ({"head_dim": 8}, "head_dim"),
    "another scaling": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type"),
    "half a scaling": ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "without"),
    "a missing width": ({"intermediate_size": None}, "intermediate_size"),
    "a string": ({"hidden_size": "16"}, "dim"),
    "a negative": ({"num_hidden_layers": -1}, "n_layers"),
    "not a number": ({"rms_norm_eps": float("nan")}, "norm_eps"),
    "a billion layers": ({"num_hidden_layers": 10**9}, r"about [\d,]{13,} bytes"),
    "10^12 parameters": ({"hidden_size": 2**20, "vocab_size": 2**20}, r"[\d,]{17,} parameters"),
    "heads without end": ({"num_attention_heads": 2**40}, "n_heads"),
    "other weights": ({"num_hidden_layers": 1}, "unknown"),
    "another vocabulary": ({"vocab_size": 319}, "the config makes it"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_config_that_cannot_be_is_refused_before_allocation(fault, tmp_path):
    """I04, I06, I07: an unknown layout, absurd sizes (with the estimated bytes), wrong types."""
    change, message = REFUSED[fault]
    folder = write_hf_folder(tmp_path / "hf", make_model(vocab_size=320), **change)
    with pytest.raises(CheckpointError, match=message):
        read_hf(folder)


def test_fused_matrices_are_an_unknown_layout(tmp_path):
    """I04: which rows are q, k and v is not said anywhere."""
    model = make_model(vocab_size=320)
    folder, tensors = write_hf_folder(tmp_path / "hf", model), hf_tensors(model)
    for i in range(model.config.n_layers):
        parts = [tensors.pop(f"model.layers.{i}.self_attn.{x}_proj.weight") for x in "qkv"]
        tensors[f"model.layers.{i}.self_attn.qkv_proj.weight"] = torch.cat(parts)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unknown: .*qkv_proj"):
        read_hf(folder)


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path):
    """I06."""
    folder = write_hf_folder(tmp_path / "hf", make_model(vocab_size=320))
    shutil.copy(folder / "model.safetensors", tmp_path / "secret.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    names = list(hf_tensors(make_model(vocab_size=320)))
    for place in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "https://h/x"):
        index = {"weight_map": dict.fromkeys(names, place)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match="plain files"):
            read_hf(folder)
    for weight_map in ({}, [], None, dict.fromkeys(names[:-1], "a.safetensors")):
        index = {"weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError):
            read_hf(folder)


def test_a_tied_config_with_another_head_is_refused(tmp_path):
    """I04."""
    model = make_model(vocab_size=320)
    folder = write_hf_folder(tmp_path / "hf", model, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="another table"):
        read_hf(folder)
    tensors = hf_tensors(model)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    save_file(tensors | buffer, folder / "model.safetensors")
    assert read_hf(folder).config.tied_head  # the same table twice, and a buffer of old files


def test_weights_in_a_pickle_are_read_without_unpickling_here(tmp_path):
    model = make_model(vocab_size=320)
    folder = tmp_path / "hf"
    folder.mkdir()
    torch.save(hf_tensors(model), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(hf_values(model)))
    source = read_hf(folder)
    for parameter, weight in model.named_parameters():
        assert torch.equal(source.read(parameter), weight)


def test_no_mutation_of_a_header_is_accepted_and_none_is_a_surprise(tmp_path):
    """I03: flipped, cut and inserted bytes; each is refused with a message of ours."""
    folder = write_hf_folder(tmp_path / "hf", make_model(vocab_size=320))
    path = folder / "model.safetensors"
    good, rng = path.read_bytes(), random.Random(0)
    end = 8 + int.from_bytes(good[:8], "little")
    for i in range(300):
        changed, at = bytearray(good), rng.randrange(end)
        if i % 3 == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif i % 3 == 1:
            del changed[rng.randrange(len(good)) :]
        else:
            changed[at:at] = rng.randbytes(rng.randint(1, 9))
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            read_hf(folder)
