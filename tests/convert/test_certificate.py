"""The certificate: it holds for good conversions, and each injected fault breaks it."""

import importlib.util
import json

import pytest
import torch

from ladderlm.convert import certificate as certificates
from ladderlm.convert import hf, hf_config, meta, params
from ladderlm.convert.certificate import certify, write_certificate
from ladderlm.convert.convert import convert, open_source
from ladderlm.model import attention
from ladderlm.model.norm import RMSNorm
from reference.foreign import write_hf_folder
from reference.hand_made import make_model

HAS = {name: importlib.util.find_spec(name) is not None for name in ("gguf", "transformers")}


def source_of(tmp_path, tokenizer=None, **fields):
    model = make_model(vocab_size=320, max_seq_len=256, n_kv_heads=2, **fields)
    return open_source(write_hf_folder(tmp_path / "hf", model), tokenizer=tokenizer)


def certified(source, to, out, dtype=None):
    convert(source, to, out, dtype=dtype)
    return certify(source, to, out)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("to", "dtype"),
    [
        ("hf", None),
        ("hf", "bfloat16"),
        ("native", None),
        pytest.param(
            "gguf", "q8_0", marks=pytest.mark.skipif(not HAS["gguf"], reason="needs gguf [interop]")
        ),
    ],
)
def test_a_good_conversion_is_certified(to, dtype, tied, tiny_tokenizer_folder, tmp_path):
    source = source_of(tmp_path, tiny_tokenizer_folder, tied_head=tied)
    found = certified(source, to, tmp_path / "out", dtype)
    assert found["holds"], found["verdict"]
    names = [witness["name"] for witness in found["witnesses"]]
    assert names[:2] == [f"twin of {to}", "ladderlm's model"]
    assert (len(names) == 3) == (to == "hf" and HAS["transformers"])
    for witness in found["witnesses"]:
        for part in ("short", "long", "quiet"):
            assert witness[part]["relative"] <= 1e-5
        assert witness["greedy"] == {"same": 32, "of": 32}
    rounding = found["rounding"]["long"]["relative"]
    assert (rounding > 1e-4) if dtype else (rounding == 0)
    assert ("from rounding to" in found["verdict"]) == bool(dtype)
    kept = "float16" if dtype == "q8_0" else dtype or "float32"  # its rows are no block of 32
    assert kept in found["rounding"]["dtype"]
    assert found["positions"] == {"short": 64, "long": 256}
    assert all(len(h) == 64 for h in found["hop"]["to"]["files"].values())
    page = write_certificate(found, tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == found
    text = page.read_text()
    assert "certificate holds" in text
    assert str(tmp_path) not in text + json.dumps(found)  # P06: no path of this machine


def norm_outside(self, x):
    root = x.pow(2).mean(-1, keepdim=True).sqrt() + self.eps
    return x / root * self.weight


def attend_in_wrong_order(q, k, v, mask):
    n_repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat(1, n_repeats, 1, 1), v.repeat(1, n_repeats, 1, 1)  # heads 0 1 0 1, not 0 0 1 1
    return attention.attend_sdpa(q, k, v, mask)


def shuffle_kv(config, name, tensor, turn, permuted=hf._permuted):
    found = permuted(config, name, tensor, turn)
    if name.endswith(("wk.weight", "wv.weight")) and "layers.1." in name:
        return found.unflatten(0, (config.kv_heads, -1)).flip(0).flatten(0, 1)
    return found


def same(tensor, _n_heads):
    return tensor


def untie(config, dtype, bos, eos, honest=hf_config.hf_config):
    return honest(config, dtype, bos, eos) | {"tie_word_embeddings": False}


def tie(config, dtype, bos, eos, honest=hf_config.hf_config):
    return honest(config, dtype, bos, eos) | {"tie_word_embeddings": True}


def outside(config, dtype, bos, eos, honest=hf_config.hf_config):
    return honest(config, dtype, bos, eos) | {"rms_norm_eps": config.norm_eps**2}


FAULTS = {
    "wrong RoPE layout, in the writer": ("hf", [(hf, "to_halves", same)], {}),
    "wrong RoPE layout, in writer and reader alike": (
        "hf",
        [(hf, "to_halves", same), (hf, "to_pairs", same)],
        {},
    ),
    "eps outside the root, in the model": ("native", [(RMSNorm, "forward", norm_outside)], {}),
    "another eps, in the writer": ("hf", [(hf, "hf_config", outside)], {}),
    "wrong rounding of the MLP": (
        "meta",
        [(params, "_width_rule", lambda config: (config.multiple_of * 7, None))],
        {},
    ),
    "kv heads in the wrong order, in the model": (
        "native",
        [(attention, "attend_reference", attend_in_wrong_order)],
        {},
    ),
    "kv heads in the wrong order, in the writer": ("hf", [(hf, "_permuted", shuffle_kv)], {}),
    "an untied head, by the config": ("hf", [(hf, "hf_config", untie)], {"tied_head": True}),
    "a head that is tied by the config alone": ("hf", [(hf, "hf_config", tie)], {}),
    "an untied head, in the weights": (
        "meta",
        [(meta, "_whole", lambda source, name: torch.flip(source.read(meta.EMBEDDING), (0,)))],
        {"tied_head": True},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_injected_fault_breaks_the_certificate(
    fault, monkeypatch, tiny_tokenizer_folder, tmp_path
):
    to, patches, fields = FAULTS[fault]
    source = source_of(tmp_path, tiny_tokenizer_folder, **fields)
    for place, name, wrong in patches:
        monkeypatch.setattr(place, name, wrong)
    found = certified(source, to, tmp_path / "out")
    assert not found["holds"]
    assert found["faults"]
    assert "DOES NOT HOLD" in write_certificate(found, tmp_path / "c").read_text()


def test_eps_is_seen_only_because_quiet_embeddings_are_tried(
    monkeypatch, tiny_tokenizer_folder, tmp_path
):
    """At unit variance 1e-5 inside or outside the root is 5e-6: no loud probe would tell."""
    source = source_of(tmp_path, tiny_tokenizer_folder)
    monkeypatch.setattr(RMSNorm, "forward", norm_outside)
    monkeypatch.setattr(certificates, "_QUIET", 1.0)
    assert certified(source, "native", tmp_path / "out")["witnesses"][1]["long"]["relative"] < 1e-4
