"""Shapes of the published LLaMA models.

Owns the table, as options of `ModelConfig`, from the params.json and config.json files that were
published with the weights. `run/presets.py` owns how a model is trained.
"""

__all__ = ["PUBLISHED_SHAPES"]

_LLAMA_1 = {"vocab_size": 32000, "multiple_of": 256, "norm_eps": 1e-6, "max_seq_len": 2048}
_LLAMA_2 = {"vocab_size": 32000, "multiple_of": 256, "norm_eps": 1e-5, "max_seq_len": 4096}
_LLAMA_3 = {
    "vocab_size": 128256,
    "n_kv_heads": 8,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_seq_len": 8192,
}
_LONG = {"max_seq_len": 131072, "rope_scaling_factor": 8.0}  # the other factors are the defaults
_7B = {"dim": 4096, "n_layers": 32, "n_heads": 32}
_13B = {"dim": 5120, "n_layers": 40, "n_heads": 40}
_8B = {**_7B, "multiple_of": 1024, "ffn_dim_multiplier": 1.3}
_70B = {"dim": 8192, "n_layers": 80, "n_heads": 64, "multiple_of": 4096, "ffn_dim_multiplier": 1.3}
_SMALL = {**_LLAMA_3, **_LONG, "rope_scaling_factor": 32.0, "multiple_of": 256, "tied_head": True}
_1B = {"dim": 2048, "n_layers": 16, "n_heads": 32, "ffn_dim_multiplier": 1.5}
_3B = {"dim": 3072, "n_layers": 28, "n_heads": 24, "ffn_dim_multiplier": 1.0}

PUBLISHED_SHAPES: dict[str, dict[str, object]] = {
    "llama-1-7b": {**_LLAMA_1, **_7B},
    "llama-1-13b": {**_LLAMA_1, **_13B},
    "llama-1-33b": {**_LLAMA_1, "dim": 6656, "n_layers": 60, "n_heads": 52},
    "llama-1-65b": {**_LLAMA_1, "dim": 8192, "n_layers": 80, "n_heads": 64, "norm_eps": 1e-5},
    "llama-2-7b": {**_LLAMA_2, **_7B},
    "llama-2-13b": {**_LLAMA_2, **_13B},
    "llama-2-70b": {**_LLAMA_2, **_70B, "n_kv_heads": 8},
    "llama-3-8b": {**_LLAMA_3, **_8B},
    "llama-3-70b": {**_LLAMA_3, **_70B},
    "llama-3.1-8b": {**_LLAMA_3, **_8B, **_LONG},
    "llama-3.1-70b": {**_LLAMA_3, **_70B, **_LONG},
    "llama-3.2-1b": {**_SMALL, **_1B},
    "llama-3.2-3b": {**_SMALL, **_3B},
}
