"""GGUF files for llama.cpp, written and read back with the `gguf` package (extra `interop`).

Owns names, dtypes and metadata of architecture `llama`. RoPE of GGUF rotates neighbouring channels,
as Meta's does, so q and k are not permuted. Norms stay float32, which llama.cpp requires. The
scaling of LLaMA 3.1's angles is written as the tensor of divisors that llama.cpp applies.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladderlm.convert.gguf_vocabulary import read_vocabulary
from ladderlm.convert.twin import Read, Recipe
from ladderlm.convert.weights import (
    EMBEDDING,
    HEAD,
    Source,
    foreign_name,
    parameter_shapes,
    require_llama,
)
from ladderlm.errors import CheckpointError, ConfigError
from ladderlm.files import publish_stream
from ladderlm.model.config import ModelConfig
from ladderlm.model.rope import rope_frequencies

__all__ = ["gguf_witness", "read_gguf", "round_like", "write_gguf"]

FILE = "model.gguf"
_BLOCK = 32  # weights of a row that share a scale in Q8_0
_SCALES = "rope_freqs.weight"
_TOP = {EMBEDDING: "token_embd.weight", "norm.weight": "output_norm.weight", HEAD: HEAD}
_LAYER = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
# PyTorch's dtype -> name of the type in gguf, and number of a file that is mostly of this type.
# int8 means Q8_0: blocks of 32 integers with a float16 scale.
_TYPES = {
    torch.float32: ("F32", 0),
    torch.float16: ("F16", 1),
    torch.bfloat16: ("BF16", 32),
    torch.int8: ("Q8_0", 7),
}


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            "--to gguf needs the package gguf", fix="run `pip install 'ladderlm[interop]'`"
        ) from error
    return gguf


def _gguf_name(name: str) -> str:
    return foreign_name(name, _TOP, _LAYER, "blk")


def _kept(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.dtype:
    """Return the dtype to write: float32 for norms, float16 for rows that Q8_0 cannot divide."""
    if len(shape) == 1:
        return torch.float32
    if dtype == torch.int8 and shape[-1] % _BLOCK:
        return torch.float16
    return dtype


def _encode(tensor: Tensor, dtype: torch.dtype) -> Any:
    """Return a tensor as an array: NumPy's float32 or float16, else the bytes as uint8."""
    gguf = _package()
    if dtype == torch.int8:
        return gguf.quants.quantize(tensor.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
    cast = tensor.to(dtype).contiguous()
    return cast.view(torch.uint8).numpy() if dtype == torch.bfloat16 else cast.numpy()


def write_gguf(source: Source, out: Path, dtype: str | None = None) -> list[Path]:
    """Write `model.gguf` with the tokenizer in it, and return its path in a list.

    Holds one tensor in memory.

    Args:
        dtype: float32, float16, bfloat16 or q8_0; None: as stored.

    Raises:
        CheckpointError: the model has no tokenizer, or one that llama.cpp does not support.
    """
    config = source.config
    require_llama(config, "gguf")
    gguf = _package()
    wanted = torch.int8 if dtype == "q8_0" else getattr(torch, dtype) if dtype else source.dtype
    if wanted not in _TYPES:
        wanted = torch.float32  # float64 has no kernel in llama.cpp
    writer = gguf.GGUFWriter(None, "llama")
    _write_metadata(writer, source, wanted)
    plan: list[tuple[str, tuple[int, ...], Callable[[], Tensor]]] = [
        (_gguf_name(name), shape, partial(source.read, name))
        for name, shape in parameter_shapes(config).items()
    ]
    if config.rope_scaling is not None:
        plain = rope_frequencies(config.head_dim, config.rope_theta)
        scales = plain / rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        plan.append((_SCALES, tuple(scales.shape), lambda: scales))
    for name, shape, _ in plan:
        kept = _kept(wanted, shape)
        kind = getattr(gguf.GGMLQuantizationType, _TYPES[kept][0])
        row = _encode(torch.zeros(1, *shape[1:]), kept)  # every row has as many bytes
        stored_shape = (shape[0], *row.shape[1:])
        n_bytes = shape[0] * row.nbytes
        writer.add_tensor_info(name, stored_shape, row.dtype, n_bytes, raw_dtype=kind)
    with publish_stream(out / FILE) as stream:
        writer.fout, writer.state = [stream], gguf.gguf_writer.WriterState.EMPTY
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, shape, read in plan:
            writer.write_tensor_data(_encode(read(), _kept(wanted, shape)))
    return [out / FILE]


def _write_metadata(writer: Any, source: Source, wanted: torch.dtype) -> None:
    config = source.config
    values = {
        "name": source.folder.resolve().name,
        "file_type": _TYPES[wanted][1],
        "quantization_version": 2,
        "vocab_size": config.vocabulary,
        "context_length": config.max_seq_len,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.ffn_width,
        "head_count": config.n_heads,
        "head_count_kv": config.kv_heads,
        "layer_norm_rms_eps": config.norm_eps,
        "rope_freq_base": config.rope_theta,
        "rope_dimension_count": config.head_dim,
    }
    for key, value in (values | read_vocabulary(source)).items():
        getattr(writer, f"add_{key}")(value)


def read_gguf(folder: Path) -> Source:
    """Open a file that `write_gguf` wrote, with the reader of the gguf package.

    Raises:
        CheckpointError: it is not a GGUF file of architecture llama in a supported dtype.
    """
    gguf = _package()
    path = folder / FILE
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path} is not a readable GGUF file: {error}") from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    fields = {key: field.contents() for key, field in reader.fields.items() if "." in key}
    by_type = {name: dtype for dtype, (name, _) in _TYPES.items()}
    strange = [t.name for t in tensors.values() if t.tensor_type.name not in by_type]
    if fields.get("general.architecture") != "llama" or strange:
        raise CheckpointError(f"{path} holds another architecture or dtype: {strange[:3]}")
    config = ModelConfig(
        dim=fields["llama.embedding_length"],
        n_layers=fields["llama.block_count"],
        n_heads=fields["llama.attention.head_count"],
        n_kv_heads=fields["llama.attention.head_count_kv"],
        ffn_dim=fields["llama.feed_forward_length"],
        vocab_size=fields["llama.vocab_size"],
        max_seq_len=fields["llama.context_length"],
        norm_eps=float(fields["llama.attention.layer_norm_rms_epsilon"]),
        rope_theta=float(fields["llama.rope.freq_base"]),
        tied_head=HEAD not in tensors,
    )

    def raw(name: str) -> Tensor:
        tensor = tensors[name]
        return torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())

    dtypes = {n: by_type[tensors[_gguf_name(n)].tensor_type.name] for n in parameter_shapes(config)}
    return Source(
        kind="gguf",
        folder=folder,
        config=config,
        dtypes=dtypes,
        read=lambda name: raw(_gguf_name(name)),
        files=(path,),
        tokenizer=None,
        raw=raw,
        raw_names=frozenset(tensors),
    )


def round_like(result: Source, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor rounded as the file stores the parameter of that name."""
    dtype = result.dtypes.get(name, torch.float32)
    if dtype != torch.int8:
        return tensor.to(dtype)
    gguf = _package()
    kind = gguf.GGMLQuantizationType.Q8_0
    return torch.from_numpy(gguf.quants.dequantize(_encode(tensor, dtype), kind))


def gguf_witness(source: Source) -> tuple[Recipe, Read]:
    """Return the recipe and the reader of a GGUF file, for the certificate."""
    config = source.config
    exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    if _SCALES in source.raw_names:
        frequencies = frequencies / source.raw(_SCALES)
    recipe = Recipe(
        layout="pairs",
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.kv_heads,
        ffn_dim=config.ffn_width,
        norm_eps=config.norm_eps,
        frequencies=frequencies,
        tied_head=config.tied_head,
    )
    last = {name.split(".")[-1]: theirs for name, theirs in _LAYER.items()}
    top = {"embedding": EMBEDDING, "norm": "norm.weight", "head": HEAD}

    def read(part: str, layer: int) -> Tensor:
        return source.raw(_TOP[top[part]] if part in top else f"blk.{layer}.{last[part]}.weight")

    return recipe, read
