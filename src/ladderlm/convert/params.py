"""Meta's `params.json` and our config.

Owns both directions, and the search for a rule of Meta's that gives an arbitrary width.
"""

from pathlib import Path
from typing import Any

from ladderlm.config import from_dict
from ladderlm.errors import CheckpointError, ConfigError, DataError
from ladderlm.files import read_json
from ladderlm.model.config import ModelConfig
from ladderlm.model.published import PUBLISHED_SHAPES

__all__ = ["model_config", "params_of", "read_params", "read_shape"]

_KNOWN = (
    "dim n_layers n_heads n_kv_heads multiple_of ffn_dim_multiplier norm_eps rope_theta vocab_size"
).split()
_SCALING = ("rope_scaling_factor", "rope_high_freq_factor")
_META_FACTOR = 8.0  # the default of Meta's code


def read_shape(values: dict[str, Any], where: Path) -> ModelConfig:
    """Return the config that the values of a foreign file describe.

    Raises:
        CheckpointError: a value is not allowed.
    """
    try:
        return from_dict(ModelConfig, values, str(where))
    except ConfigError as error:
        raise CheckpointError(error.what, error.why, error.fix) from None


def read_params(folder: Path) -> dict[str, Any]:
    """Read `params.json`. A missing file, or one that is no table, is a `CheckpointError`."""
    path = folder / "params.json"
    try:
        params = read_json(path)
    except DataError as error:
        raise CheckpointError(error.what, fix="copy params.json into the folder") from None
    if not isinstance(params, dict):
        raise CheckpointError(f"{path} must hold a table of options")
    return params


def model_config(
    params: dict[str, Any], vocab_size: int, max_seq_len: int | None, where: Path
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return the config that `params.json` describes, and the keys that have no meaning here.

    Args:
        vocab_size: rows of the head in the files; params.json often says -1.
        max_seq_len: None: the published context of the generation, which the format does not store.

    Raises:
        CheckpointError: a key is missing, or a value is not allowed.
    """
    values = {key: params[key] for key in _KNOWN if params.get(key) is not None}
    if missing := [key for key in ("dim", "n_layers", "n_heads") if key not in values]:
        raise CheckpointError(f"{where} has no {missing[0]!r}, so it is no params.json of Meta's")
    stated = values.pop("vocab_size", -1)
    if stated not in (-1, vocab_size):
        raise CheckpointError(
            f"{where}: vocab_size must be -1 or the {vocab_size} rows of the files, got {stated}",
            fix="download config and weights again from one place",
        )
    values = {"multiple_of": 256, "norm_eps": 1e-5, **values, "vocab_size": vocab_size}
    scaled = params.get("use_scaled_rope", False)
    if scaled not in (True, False) or params.get("quantization_args"):
        raise CheckpointError(
            f"{where}: the weights must not be quantized, and use_scaled_rope must be true or false"
        )
    if scaled:
        values["rope_scaling_factor"] = _factor_of(values)
        values |= {key: params[key] for key in _SCALING if params.get(key) is not None}
    long = 131072 if scaled else 8192 if values.get("rope_theta", 10000.0) != 10000.0 else 4096
    values["max_seq_len"] = long if max_seq_len is None else max_seq_len
    ignored = set(params) - {*_KNOWN, *_SCALING, "use_scaled_rope"}
    return read_shape(values, where), tuple(sorted(ignored))


def _factor_of(values: dict[str, Any]) -> float:
    """Return the factor that params.json leaves out: 32 for LLaMA 3.2's two shapes, else 8."""
    tied = [shape for shape in PUBLISHED_SHAPES.values() if shape.get("tied_head")]
    keys = ("dim", "n_layers", "n_heads")
    same = any(all(values.get(key) == shape[key] for key in keys) for shape in tied)
    return 32.0 if same else _META_FACTOR


def params_of(config: ModelConfig) -> dict[str, Any]:
    """Return `params.json`, with only the keys that Meta's `ModelArgs` of the generation has.

    Raises:
        CheckpointError: `params.json` cannot express the width or the scaling.
    """
    multiple_of, multiplier = _width_rule(config)
    params: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "multiple_of": multiple_of,
        "norm_eps": config.norm_eps,
        "vocab_size": config.vocabulary,
    }
    if config.kv_heads != config.n_heads:
        params["n_kv_heads"] = config.kv_heads
    if multiplier is not None:
        params["ffn_dim_multiplier"] = multiplier
    if config.rope_theta != 10000.0 or config.rope_scaling_factor is not None:
        params["rope_theta"] = config.rope_theta
    if config.rope_scaling_factor is not None:
        if config.rope_low_freq_factor != 1.0 or config.rope_original_seq_len != 8192:
            raise CheckpointError(
                "Meta's format requires model.rope_low_freq_factor = 1 and "
                f"model.rope_original_seq_len = 8192, got {config.rope_low_freq_factor} and "
                f"{config.rope_original_seq_len}"
            )
        params["use_scaled_rope"] = True
        if config.rope_scaling_factor != _META_FACTOR:
            params["rope_scaling_factor"] = config.rope_scaling_factor
        if config.rope_high_freq_factor != 4.0:
            params["rope_high_freq_factor"] = config.rope_high_freq_factor
    return params


def _width_rule(config: ModelConfig) -> tuple[int, float | None]:
    """Return `multiple_of` and `ffn_dim_multiplier` that give the model's width in Meta's rule."""
    width = config.ffn_width
    plain = int(2 * (4 * config.dim) / 3)
    tries: list[tuple[int, float | None]] = [(config.multiple_of, config.ffn_dim_multiplier)]
    tries += [(width, None), (1, width / plain), (1, (width + 0.5) / plain)]
    for multiple_of, multiplier in tries:
        hidden = plain if multiplier is None else int(multiplier * plain)
        if multiple_of * ((hidden + multiple_of - 1) // multiple_of) == width:
            return multiple_of, multiplier
    raise CheckpointError(f"no multiplier in Meta's rule gives model.ffn_dim = {width}")
