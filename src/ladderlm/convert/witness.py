"""A second reader of each format's config, for the certificate.

Owns `witness_of`: the recipe of a folder from its own config file, and its parts under its own
names. It uses only the raw tensors of `meta.py`, `hf.py` and `native.py`, so that it can disagree
with them.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladderlm.convert.gguf import gguf_witness
from ladderlm.convert.twin import Read, Recipe
from ladderlm.convert.weights import Source
from ladderlm.errors import CheckpointError

__all__ = ["META_NAMES", "Witness", "frequencies_of", "witness_of"]

Witness = tuple[Recipe, Read]
META_NAMES = {
    "embedding": "tok_embeddings.weight",
    "norm": "norm.weight",
    "head": "output.weight",
    "attention_norm": "layers.{i}.attention_norm.weight",
    "ffn_norm": "layers.{i}.ffn_norm.weight",
    **{p: f"layers.{{i}}.attention.{p}.weight" for p in ("wq", "wk", "wv", "wo")},
    **{p: f"layers.{{i}}.feed_forward.{p}.weight" for p in ("w1", "w2", "w3")},
}
_HF_LAYER = "model.layers.{i}."
_HF_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "wq": _HF_LAYER + "self_attn.q_proj.weight",
    "wk": _HF_LAYER + "self_attn.k_proj.weight",
    "wv": _HF_LAYER + "self_attn.v_proj.weight",
    "wo": _HF_LAYER + "self_attn.o_proj.weight",
    "w1": _HF_LAYER + "mlp.gate_proj.weight",
    "w2": _HF_LAYER + "mlp.down_proj.weight",
    "w3": _HF_LAYER + "mlp.up_proj.weight",
    "attention_norm": _HF_LAYER + "input_layernorm.weight",
    "ffn_norm": _HF_LAYER + "post_attention_layernorm.weight",
}


def frequencies_of(
    width: int, theta: float, scaling: tuple[float, float, float, float] | None
) -> Tensor:
    """Return the rotation angle per position of each pair in float32, by the published rule.

    Args:
        width: channels of a head.
        scaling: factor, low and high frequency factor, original context.
    """
    plain = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
    if scaling is None:
        return plain
    factor, low, high, original = scaling
    found = []
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            found.append(frequency)
        elif wavelength > original / low:
            found.append(frequency / factor)
        else:
            share = (original / wavelength - low) / (high - low)
            found.append((1 - share) * frequency / factor + share * frequency)
    return torch.stack(found)


def witness_of(source: Source) -> Witness:
    """Return the recipe of a folder and the reader of its parts.

    Raises:
        CheckpointError: the config file is incomplete.
    """
    readers: dict[str, Callable[[Source], Witness]] = {
        "meta": _meta,
        "hf": _hf,
        "native": _native,
        "gguf": gguf_witness,
    }
    try:
        return readers[source.kind](source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source.folder}: its config is incomplete ({error})") from error


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _reader(source: Source, names: Mapping[str, str]) -> Read:
    return lambda part, layer: source.raw(names[part].format(i=layer))


def _meta(source: Source) -> Witness:
    params = _json(source.folder / "params.json")
    hidden = int(2 * (4 * params["dim"]) / 3)
    if params.get("ffn_dim_multiplier") is not None:
        hidden = int(params["ffn_dim_multiplier"] * hidden)
    while hidden % params.get("multiple_of", 256):
        hidden += 1
    scaling = None
    if params.get("use_scaled_rope"):
        # params.json of 3.2 leaves out its factor of 32; the config as read has it.
        factor = params.get("rope_scaling_factor") or source.config.rope_scaling_factor or 8.0
        scaling = (factor, 1.0, params.get("rope_high_freq_factor") or 4.0, 8192.0)
    width = params["dim"] // params["n_heads"]
    recipe = Recipe(
        layout="pairs",
        n_layers=params["n_layers"],
        n_heads=params["n_heads"],
        n_kv_heads=params.get("n_kv_heads") or params["n_heads"],
        ffn_dim=hidden,
        norm_eps=params.get("norm_eps", 1e-5),
        frequencies=frequencies_of(width, params.get("rope_theta") or 10000.0, scaling),
        tied_head=META_NAMES["head"] not in source.raw_names,
    )
    return recipe, _reader(source, META_NAMES)


def _hf(source: Source) -> Witness:
    values = _json(source.folder / "config.json")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    scaling = None
    if rope.get("rope_type", rope.get("type")) == "llama3":
        names = "factor low_freq_factor high_freq_factor original_max_position_embeddings".split()
        factor, low, high, original = (float(rope[name]) for name in names)
        scaling = (factor, low, high, original)
    n_heads = values["num_attention_heads"]
    theta = rope.get("rope_theta", values.get("rope_theta", 10000.0))
    recipe = Recipe(
        layout="halves",
        n_layers=values["num_hidden_layers"],
        n_heads=n_heads,
        n_kv_heads=values.get("num_key_value_heads") or n_heads,
        ffn_dim=values["intermediate_size"],
        norm_eps=values.get("rms_norm_eps", 1e-6),
        frequencies=frequencies_of(values["hidden_size"] // n_heads, theta, scaling),
        tied_head=bool(values.get("tie_word_embeddings", False)),
    )
    return recipe, _reader(source, _HF_NAMES)


def _native(source: Source) -> Witness:
    model = _json(source.folder / "config.json")["model"]
    scaling = None
    if model.get("rope_scaling_factor") is not None:
        scaling = (
            model["rope_scaling_factor"],
            model["rope_low_freq_factor"],
            model["rope_high_freq_factor"],
            model["rope_original_seq_len"],
        )
    hidden = model["ffn_dim"]
    if hidden is None:
        hidden = int(2 * (4 * model["dim"]) / 3)
        if model["ffn_dim_multiplier"] is not None:
            hidden = int(model["ffn_dim_multiplier"] * hidden)
        hidden += -hidden % model["multiple_of"]
    width = model["dim"] // model["n_heads"]
    recipe = Recipe(
        layout="pairs",
        n_layers=model["n_layers"],
        n_heads=model["n_heads"],
        n_kv_heads=model["n_kv_heads"] or model["n_heads"],
        ffn_dim=hidden,
        norm_eps=model["norm_eps"],
        frequencies=frequencies_of(width, model["rope_theta"], scaling),
        tied_head=bool(model.get("tied_head", False)),
        logit_softcap=model.get("logit_softcap"),
    )
    return recipe, _reader(source, META_NAMES)
