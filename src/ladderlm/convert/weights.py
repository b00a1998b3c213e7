"""A model on disk, in any format, under Meta's names and in Meta's layout.

Owns `Source`, which every reader returns and every writer takes, and the checks that all formats
share: nothing is allocated for a config that its files cannot fill, and every tensor exists once,
with its shape.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladderlm.convert.tensors import Shape, Stored
from ladderlm.errors import CheckpointError
from ladderlm.model.accounting import count_params
from ladderlm.model.config import ModelConfig

__all__ = [
    "EMBEDDING",
    "HEAD",
    "Source",
    "beyond_llama",
    "check_size",
    "check_tensors",
    "check_vocabulary",
    "foreign_name",
    "parameter_shapes",
    "require_llama",
    "require_tokenizer",
]

EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Source:
    """One model, read a tensor at a time.

    Args:
        kind: meta, hf, native or gguf.
        config: its shape; `max_seq_len` is a guess if the format does not store it.
        dtypes: of each parameter, by Meta's names in the order of `parameter_shapes`.
        read: returns a parameter by Meta's name, in Meta's layout and the stored dtype.
        files: files that its numbers depend on, for checksums.
        tokenizer: its tokenizer, a folder or a file; None: there is none.
        raw: reads a tensor by the format's own name, in the format's layout, for the certificate.
        raw_names: names that `raw` can read.
        ignored: options of a foreign config that have no meaning here.
        generation: special ids that a Hugging Face folder states.
    """

    kind: str
    folder: Path
    config: ModelConfig
    dtypes: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor]
    files: tuple[Path, ...]
    tokenizer: Path | None
    raw: Callable[[str], Tensor]
    raw_names: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    generation: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The widest stored dtype."""
        return max(set(self.dtypes.values()), key=lambda dtype: (dtype.itemsize, str(dtype)))


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Return the shape of every parameter by Meta's names, without a tied head."""
    dim, ffn, vocab_size = config.dim, config.ffn_width, config.vocabulary
    heads, kv_heads = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
    layer: dict[str, Shape] = {
        "attention.wq": (heads, dim),
        "attention.wk": (kv_heads, dim),
        "attention.wv": (kv_heads, dim),
        "attention.wo": (dim, heads),
        "feed_forward.w1": (ffn, dim),
        "feed_forward.w2": (dim, ffn),
    }
    if config.mlp == "swiglu":
        layer["feed_forward.w3"] = (ffn, dim)
    if config.qk_norm:
        layer |= dict.fromkeys(("attention.q_norm", "attention.k_norm"), (config.head_dim,))
    layer |= {"attention_norm": (dim,), "ffn_norm": (dim,)}
    shapes: dict[str, Shape] = {EMBEDDING: (vocab_size, dim)}
    for i in range(config.value_embeddings):
        shapes[f"value_embeddings.{i}.weight"] = (vocab_size, kv_heads)
    for i in range(config.n_layers):
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    shapes["norm.weight"] = (dim,)
    if not config.tied_head:
        shapes[HEAD] = (vocab_size, dim)
    return shapes


def foreign_name(name: str, top: Mapping[str, str], layer: Mapping[str, str], prefix: str) -> str:
    """Return another format's name of a parameter that Meta calls `name`.

    Args:
        top, layer: the format's names by Meta's, outside and inside layers; see `hf.py`.
        prefix: the format's name of the list of layers.
    """
    if name in top:
        return top[name]
    _, i, rest = name.split(".", 2)
    return f"{prefix}.{i}.{layer[rest.removesuffix('.weight')]}.weight"


def check_size(config: ModelConfig, files: tuple[Path, ...], where: Path) -> None:
    """Check that the files can hold the weights of a config, before anything is allocated.

    Raises:
        CheckpointError: they hold less than a byte per parameter.
    """
    n_params = count_params(config).total
    n_file_bytes = sum(path.stat().st_size for path in files)
    if n_params > n_file_bytes:
        raise CheckpointError(
            f"{where} describes {n_params:,} parameters, about {2 * n_params:,} bytes in half "
            f"precision; its files hold {n_file_bytes:,} bytes",
            "the config does not belong to these weights, or is made to exhaust memory",
            "download both again from one place",
        )


def check_tensors(found: Mapping[str, Stored], expected: Mapping[str, Shape], where: Path) -> None:
    """Check that exactly the expected tensors exist, each with its shape and a float dtype.

    Raises:
        CheckpointError: a tensor is missing or unknown, or has another shape or dtype.
    """
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected)
    if missing or unknown:
        parts = [f"missing: {', '.join(missing[:5])}"] if missing else []
        parts += [f"unknown: {', '.join(unknown[:5])}"] if unknown else []
        raise CheckpointError(
            f"{where} is not this model: {'; '.join(parts)}",
            "a missing weight would keep a random value, and an unknown one may be a part of "
            "another architecture",
            "convert only plain LLaMA models without biases",
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise CheckpointError(
                f"{where}: {name} is {found[name].shape}, the config makes it {shape}",
                "config and weights do not belong together",
                "download both again from one place",
            )
        if found[name].dtype not in _FLOATS:
            raise CheckpointError(f"{where}: {name} must hold floats, not {found[name].dtype}")


def require_tokenizer(source: Source) -> Path:
    """Return the tokenizer of a model, or raise a `CheckpointError` if there is none."""
    if source.tokenizer is None:
        what = f"{source.folder} has no tokenizer"
        raise CheckpointError(what, fix="name a folder with one: --tokenizer DIR")
    return source.tokenizer


def check_vocabulary(n_tokens: int, tokenizer: Path, config: ModelConfig) -> None:
    """Raise a `CheckpointError` if a tokenizer has more tokens than the model has rows."""
    if n_tokens > config.vocabulary:
        raise CheckpointError(
            f"{tokenizer} has {n_tokens} tokens, the model has {config.vocabulary}",
            "the model has no row for some of them",
            "name the tokenizer that came with the model",
        )


_LLAMA: dict[str, Any] = {
    "mlp": "swiglu",
    "logit_softcap": None,
    "qk_norm": False,
    "value_embeddings": 0,
}


def beyond_llama(config: ModelConfig) -> str | None:
    """Return the first option that the LLaMA architecture lacks, with its value, or None."""
    options = (name for name, plain in _LLAMA.items() if getattr(config, name) != plain)
    return next((f"model.{name} = {getattr(config, name)}" for name in options), None)


def require_llama(config: ModelConfig, kind: str) -> None:
    """Raise a `CheckpointError` if a model has an option that the LLaMA architecture lacks."""
    if option := beyond_llama(config):
        raise CheckpointError(
            f"a model with {option} cannot be written as {kind}",
            "the LLaMA architecture has no such part, so the file would hold another model",
            "convert only plain LLaMA models",
        )
