"""`config.json` of a Hugging Face Llama, as transformers 4 and 5 write and read it.

Owns the two dialects: 4.x has `rope_theta`, `rope_scaling` and `torch_dtype`; 5.x has
`rope_parameters` and `dtype`. What is written holds both.
"""

from pathlib import Path
from typing import Any

from ladderlm.config import from_dict
from ladderlm.errors import CheckpointError, ConfigError
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
# What LlamaConfig takes where a key is absent.
_DEFAULTS = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "tie_word_embeddings": False}
# Options that would make another function of the weights, and their only allowed values.
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
    """Return the shape that a Hugging Face config means.

    Raises:
        CheckpointError: not a plain LLaMA, or a value that cannot be.
    """
    if not isinstance(values, dict) or values.get("model_type") != "llama":
        kind = values.get("model_type") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(
            f"{where}: model_type = {str(kind)[:60]!r}",
            "other architectures compute other functions of their weights",
            "only model_type 'llama' can be converted; `ladderlm eval` scores others as they are",
        )
    for key, allowed in _PLAIN.items():
        if values.get(key, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{where}: {key} = {str(values[key])[:60]!r}",
                f"a plain LLaMA has {allowed[0]!r}, and ladderlm computes nothing else",
                "this model cannot be converted",
            )
    missing = [key for key in _REQUIRED if values.get(key) is None]
    if missing:
        raise CheckpointError(f"{where} has no {', '.join(missing)}", "the shape is not known")
    found: dict[str, Any] = {
        ours: values.get(theirs, _DEFAULTS.get(theirs)) for theirs, ours in _NAMES.items()
    }
    found |= _rope(values, where)
    try:
        config = from_dict(ModelConfig, found, str(where))
    except ConfigError as error:
        raise CheckpointError(error.what, error.why, error.fix) from None
    if values.get("head_dim") not in (None, config.head_dim):
        raise CheckpointError(
            f"{where}: head_dim = {str(values['head_dim'])[:60]}",
            f"here it is hidden_size / num_attention_heads = {config.head_dim}",
            "this model cannot be converted",
        )
    return config


def _rope(values: dict[str, Any], where: Path) -> dict[str, Any]:
    """Read base and scaling of the rotary angles in either dialect."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{where}: the options of RoPE are no table")
    theta = rope.get("rope_theta", values.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {"rope_theta": theta}
    if kind != "llama3":
        raise CheckpointError(
            f"{where}: rope_type = {str(kind)[:60]!r}",
            "ladderlm knows plain angles and those of LLaMA 3.1",
            "this model cannot be converted",
        )
    missing = [key for key in _SCALING if rope.get(key) is None]
    if missing:
        raise CheckpointError(f"{where}: rope_type llama3 without {', '.join(missing)}")
    return {"rope_theta": theta} | {ours: rope[theirs] for theirs, ours in _SCALING.items()}


def hf_config(
    config: ModelConfig, dtype: str, bos_id: int | None, eos_id: int | None
) -> dict[str, Any]:
    """Return `config.json` as both generations of transformers read it.

    Args:
        dtype: for example float32, under the old name and the new one.
    """
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling_factor is not None:
        rope = {theirs: getattr(config, ours) for theirs, ours in _SCALING.items()}
        rope["rope_type"] = "llama3"
    ours = {theirs: getattr(config, name) for theirs, name in _NAMES.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **ours,
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
