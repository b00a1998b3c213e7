"""A model on disk, in any format, under Meta's names and in Meta's layout.

Owns `Source`, which every reader gives and every writer takes, and the checks all readers share:
nothing is allocated for a config that its files cannot fill, and every tensor is there, once, with
its shape.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladderlm.convert.tensors import Shape
from ladderlm.errors import CheckpointError
from ladderlm.model.accounting import count_params
from ladderlm.model.config import ModelConfig

__all__ = [
    "EMBEDDING",
    "FLOATS",
    "HEAD",
    "Source",
    "beyond_llama",
    "check_shapes",
    "check_size",
    "parameter_shapes",
    "require_llama",
]

EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Source:
    """One model, read a tensor at a time.

    Args:
        kind: meta, hf, native or gguf.
        folder: where it lies.
        config: its shape; `max_seq_len` may be a guess where the format does not say it.
        dtypes: of each parameter, by Meta's names in the order of `parameter_shapes`.
        read: gives a parameter by Meta's name, in Meta's layout and the stored dtype.
        files: what its numbers depend on, for checksums.
        tokenizer: folder with its tokenizer; None: there is none.
        raw: reads a tensor by the format's own name and in its own layout, for the certificate.
        raw_names: what `raw` can read.
        ignored: options of foreign configs that mean nothing here.
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
    generation: dict[str, Any] = field(default_factory=dict)  # of a Hugging Face folder

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype that is stored."""
        return max(set(self.dtypes.values()), key=lambda dtype: (dtype.itemsize, str(dtype)))


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Return the shape of every parameter by Meta's names; a tied head is not among them."""
    dim, ffn = config.dim, config.ffn_width
    heads, kv_heads = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
    layer: dict[str, Shape] = {
        "attention.wq": (heads, dim),
        "attention.wk": (kv_heads, dim),
        "attention.wv": (kv_heads, dim),
        "attention.wo": (dim, heads),
        "feed_forward.w1": (ffn, dim),
        "feed_forward.w2": (dim, ffn),
        **({"feed_forward.w3": (ffn, dim)} if config.mlp == "swiglu" else {}),
        **(
            dict.fromkeys(("attention.q_norm", "attention.k_norm"), (config.head_dim,))
            if config.qk_norm
            else {}
        ),
        "attention_norm": (dim,),
        "ffn_norm": (dim,),
    }
    shapes: dict[str, Shape] = {EMBEDDING: (config.vocabulary, dim)}
    for i in range(config.value_embeddings):
        shapes[f"value_embeddings.{i}.weight"] = (config.vocabulary, kv_heads)
    for i in range(config.n_layers):
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    shapes["norm.weight"] = (dim,)
    if not config.tied_head:
        shapes[HEAD] = (config.vocabulary, dim)
    return shapes


def check_size(config: ModelConfig, files: tuple[Path, ...], where: Path) -> None:
    """Refuse a config whose weights cannot be in its files, before anything is allocated.

    Raises:
        CheckpointError: gives the estimated bytes and those of the files.
    """
    n_params = count_params(config).total
    n_file_bytes = sum(path.stat().st_size for path in files)
    if n_params > n_file_bytes:  # not even one byte each
        raise CheckpointError(
            f"{where} describes {n_params:,} parameters, about {2 * n_params:,} bytes in half "
            f"precision; its files hold {n_file_bytes:,} bytes",
            "the config does not belong to these weights, or is made to exhaust memory",
            "get both again from one place",
        )


def check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], where: Path) -> None:
    """Require every tensor, no other, each of its shape.

    Raises:
        CheckpointError: names what is missing, unknown or of another shape.
    """
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected)
    if missing or unknown:
        parts = [f"missing: {', '.join(missing[:5])}"] if missing else []
        parts += [f"unknown: {', '.join(unknown[:5])}"] if unknown else []
        raise CheckpointError(
            f"{where} is not this model: {'; '.join(parts)}",
            "a weight that is silently left out would keep a random value, and one that is "
            "ignored may be a part of another architecture",
            "only plain LLaMA models without biases can be converted",
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{where}: {name} is {found[name]}, the config makes it {shape}",
                "config and weights do not belong together",
                "get both again from one place",
            )


_LLAMA: dict[str, Any] = {
    "mlp": "swiglu",
    "logit_softcap": None,
    "qk_norm": False,
    "value_embeddings": 0,
}


def beyond_llama(config: ModelConfig) -> str | None:
    """Return the first option that makes a model none of the LLaMA architecture, with its value."""
    for name, plain in _LLAMA.items():
        if getattr(config, name) != plain:
            return f"model.{name} = {getattr(config, name)}"
    return None


def require_llama(config: ModelConfig, kind: str) -> None:
    """Refuse to write what no other format can say.

    Raises:
        CheckpointError: names the option and its value.
    """
    option = beyond_llama(config)
    if option is not None:
        raise CheckpointError(
            f"a model with {option} cannot be written as {kind}",
            "the LLaMA architecture has no such part, so the model read back would be another",
            "only plain LLaMA models leave ladderlm",
        )
