"""`config.json` of a Hugging Face Llama, as transformers 4 and 5 write and read it.

Owns the two dialects: 4.x has `rope_theta`, `rope_scaling` and `torch_dtype`; 5.x has
`rope_parameters` and `dtype`. Written files hold both.
"""

from pathlib import Path
from typing import Any

from ladderlm.convert.params import read_shape
from ladderlm.errors import CheckpointError
from ladderlm.model.config import ModelConfig

__all__ = ["hf_config", "read_hf_config"]

_NAMES = {  # theirs -> ours
    "hidden_size": "dim",
    "intermediate_size": "ffn_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_seq_len",
    "tie_word_embeddings": "tied_head",
}
_REQUIRED = "hidden_size intermediate_size num_hidden_layers num_attention_heads vocab_size".split()
# Defaults of LlamaConfig.
_DEFAULTS = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "tie_word_embeddings": False}
# Options that change the function of the weights, with the values of a plain LLaMA.
_PLAIN = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "quantization_config": (None,),
    "sliding_window": (None,),
    "partial_rotary_factor": (1.0,),
}
_SCALING = {
    "factor": "rope_scaling_factor",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
    "original_max_position_embeddings": "rope_original_seq_len",
}


def read_hf_config(values: Any, where: Path) -> ModelConfig:
    """Return the shape that a Hugging Face config describes.

    Raises:
        CheckpointError: it is not a plain LLaMA, or a value is not allowed.
    """
    if not isinstance(values, dict) or values.get("model_type") != "llama":
        kind = values.get("model_type") if isinstance(values, dict) else type(values).__name__
        raise _not_plain(where, "model_type", "'llama'", kind)
    for key, allowed in _PLAIN.items():
        if values.get(key, allowed[0]) not in allowed:
            raise _not_plain(where, key, repr(allowed[0]), values[key])
    if missing := [key for key in _REQUIRED if values.get(key) is None]:
        raise CheckpointError(f"{where} has no {', '.join(missing)}")
    found: dict[str, Any] = {
        ours: values.get(theirs, _DEFAULTS.get(theirs)) for theirs, ours in _NAMES.items()
    }
    config = read_shape(found | _rope(values, where), where)
    if values.get("head_dim") not in (None, config.head_dim):
        rule = f"hidden_size / num_attention_heads = {config.head_dim}"
        raise _not_plain(where, "head_dim", rule, values["head_dim"])
    return config


def _not_plain(where: Path, key: str, rule: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"{where}: {key} must be {rule}, got {str(value)[:60]!r}",
        "ladderlm computes only plain LLaMA models",
        "score the model as it is, with `ladderlm eval`",
    )


def _rope(values: dict[str, Any], where: Path) -> dict[str, Any]:
    """Return base and scaling of the rotary angles, from either dialect."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{where}: the options of RoPE are not a table")
    theta = rope.get("rope_theta", values.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {"rope_theta": theta}
    if kind != "llama3":
        raise _not_plain(where, "rope_type", "'default' or 'llama3'", kind)
    if missing := [key for key in _SCALING if rope.get(key) is None]:
        raise CheckpointError(f"{where}: rope_type llama3 without {', '.join(missing)}")
    return {"rope_theta": theta} | {ours: rope[theirs] for theirs, ours in _SCALING.items()}


def hf_config(
    config: ModelConfig, dtype: str, bos_id: int | None, eos_id: int | None
) -> dict[str, Any]:
    """Return `config.json` as transformers 4 and 5 read it; `dtype` is, for example, float32."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling_factor is not None:
        rope = {theirs: getattr(config, ours) for theirs, ours in _SCALING.items()}
        rope["rope_type"] = "llama3"
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(config, ours) for theirs, ours in _NAMES.items()},
        "intermediate_size": config.ffn_width,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling_factor is None else rope,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "torch_dtype": dtype,
        "dtype": dtype,
    }
