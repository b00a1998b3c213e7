"""GGUF files for llama.cpp, written and read back with the `gguf` package (extra `interop`).

Owns names, dtypes and metadata of architecture `llama`. GGUF turns neighbouring channels, as Meta
does, so q and k are written as they are. Norms stay float32, as llama.cpp wants them. The scaling
of LLaMA 3.1's angles is written as the tensor of divisors that llama.cpp multiplies in.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladderlm.convert.gguf_vocabulary import read_vocabulary
from ladderlm.convert.twin import Read, Recipe
from ladderlm.convert.weights import EMBEDDING, HEAD, Source, parameter_shapes, require_llama
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
# Torch's dtype -> the type's name in gguf, and the number of a file mostly of it. int8 stands for
# Q8_0: blocks of 32 whole numbers with a float16 scale.
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
            "--to gguf needs the package gguf",
            "it is an optional part",
            "pip install 'ladderlm[interop]'",
        ) from error
    return gguf


def _gguf_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def _kept(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.dtype:
    """Return the dtype a tensor is written in: norms wide, and no Q8_0 where blocks do not fit."""
    if len(shape) == 1:
        return torch.float32
    if dtype == torch.int8 and shape[-1] % _BLOCK:
        return torch.float16
    return dtype


def _encode(tensor: Tensor, dtype: torch.dtype) -> Any:
    """Return the array of a tensor's bytes: numpy's own float32 and float16, else uint8."""
    gguf = _package()
    if dtype == torch.int8:
        return gguf.quants.quantize(tensor.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
    cast = tensor.to(dtype).contiguous()
    return cast.view(torch.uint8).numpy() if dtype == torch.bfloat16 else cast.numpy()


def write_gguf(source: Source, out: Path, dtype: str | None = None) -> list[Path]:
    """Write `model.gguf` with tokenizer; return it in a list.

    Memory: one tensor.

    Args:
        dtype: float32, float16, bfloat16 or q8_0; None: as stored.

    Raises:
        CheckpointError: the model has no tokenizer, or one that llama.cpp does not know.
    """
    config = source.config
    require_llama(config, "gguf")
    if source.tokenizer is None:
        raise CheckpointError(
            f"{source.folder} has no tokenizer",
            "llama.cpp answers text with text, so a GGUF file holds one",
            "name a folder with one: --tokenizer DIR",
        )
    gguf = _package()
    wanted = torch.int8 if dtype == "q8_0" else getattr(torch, dtype) if dtype else source.dtype
    if wanted not in _TYPES:
        wanted = torch.float32  # float64 has no kernel in llama.cpp
    writer = gguf.GGUFWriter(None, "llama")
    _write_metadata(writer, source, wanted)
    for key, value in read_vocabulary(source, config.vocabulary).items():
        getattr(writer, f"add_{key}")(value)
    plan: list[tuple[str, torch.dtype, Callable[[], Tensor]]] = []
    for name, shape in parameter_shapes(config).items():
        plan.append((_gguf_name(name), _kept(wanted, shape), lambda name=name: source.read(name)))  # type: ignore[misc]
    if config.rope_scaling is not None:
        plain = rope_frequencies(config.head_dim, config.rope_theta)
        scales = plain / rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        plan.append((_SCALES, torch.float32, lambda: scales))
    shapes = {_gguf_name(n): s for n, s in parameter_shapes(config).items()}
    shapes[_SCALES] = (config.head_dim // 2,)
    for name, kept, _ in plan:
        kind = getattr(gguf.GGMLQuantizationType, _TYPES[kept][0])
        sample = _encode(torch.zeros(1, *shapes[name][1:]), kept)  # one row tells the bytes of all
        row_shape, itemsize = sample.shape[1:], sample.dtype
        n_rows = shapes[name][0]
        n_bytes = n_rows * sample.nbytes
        writer.add_tensor_info(name, (n_rows, *row_shape), itemsize, n_bytes, raw_dtype=kind)
    with publish_stream(out / FILE) as stream:
        writer.fout, writer.state = [stream], gguf.gguf_writer.WriterState.EMPTY
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, kept, read in plan:
            writer.write_tensor_data(_encode(read(), kept))
    return [out / FILE]


def _write_metadata(writer: Any, source: Source, wanted: torch.dtype) -> None:
    config = source.config
    writer.add_name(source.folder.resolve().name)
    writer.add_file_type(_TYPES[wanted][1])
    writer.add_quantization_version(2)
    writer.add_vocab_size(config.vocabulary)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)


def read_gguf(folder: Path) -> Source:
    """Open a file that `write_gguf` wrote, by the reader of the gguf package.

    Raises:
        CheckpointError: not a GGUF file of architecture llama in a dtype that is written here.
    """
    gguf = _package()
    path = folder / FILE
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}", "it is no readable GGUF file") from error
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
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return torch.from_numpy(values.copy())

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
    """Round a tensor as the file holds the parameter of that name: encode it and decode it."""
    dtype = result.dtypes.get(name, torch.float32)
    if dtype == torch.int8:
        gguf = _package()
        kind = gguf.GGMLQuantizationType.Q8_0
        values = gguf.quants.dequantize(_encode(tensor, dtype), kind)
        return torch.from_numpy(values)
    return tensor.to(dtype)


def gguf_witness(source: Source) -> tuple[Recipe, Read]:
    """Return recipe and parts of a GGUF file, for the certificate."""
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
