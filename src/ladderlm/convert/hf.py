"""Hugging Face folders of a Llama: safetensors with an index, both ways.

Owns the names and the layout of q and k. Meta turns neighbouring channels (2i, 2i + 1) of a head;
Hugging Face turns channel i with channel i + E/2, so the rows of wq and wk are permuted within each
head: (E/2, 2) becomes (2, E/2). k has n_kv_heads heads.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladderlm.convert.card import model_card
from ladderlm.convert.hf_config import hf_config, read_hf_config
from ladderlm.convert.pickles import index_pickles
from ladderlm.convert.tensors import Stored, inside, read_safetensors, stream_safetensors
from ladderlm.convert.vocabulary import find_tokenizer, special_ids, write_hf_tokenizer
from ladderlm.convert.weights import (
    EMBEDDING,
    FLOATS,
    HEAD,
    Source,
    check_shapes,
    check_size,
    parameter_shapes,
    require_llama,
)
from ladderlm.errors import CheckpointError
from ladderlm.files import publish_json, publish_stream, publish_text, read_json
from ladderlm.model.config import ModelConfig

__all__ = ["hf_name", "is_hf", "read_hf", "to_halves", "to_pairs", "write_hf"]

SHARD_BYTES = 5_000_000_000
_SAFE, _PICKLE = "model.safetensors", "pytorch_model.bin"
_TOP = {
    EMBEDDING: "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    HEAD: "lm_head.weight",
}
_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_BUFFER = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def hf_name(name: str) -> str:
    """Return Hugging Face's name of a parameter that Meta calls `name`."""
    if name in _TOP:
        return _TOP[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def to_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Permute the rows of wq or wk from Meta's neighbouring pairs to Hugging Face's halves."""
    rows, columns = weight.shape
    paired = weight.view(n_heads, rows // n_heads // 2, 2, columns)
    return paired.transpose(1, 2).reshape(rows, columns)


def to_pairs(weight: Tensor, n_heads: int) -> Tensor:
    """Undo `to_halves`."""
    rows, columns = weight.shape
    halves = weight.view(n_heads, 2, rows // n_heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _permuted(
    config: ModelConfig, name: str, tensor: Tensor, turn: Callable[[Tensor, int], Tensor]
) -> Tensor:
    if name.endswith("attention.wq.weight"):
        return turn(tensor, config.n_heads)
    if name.endswith("attention.wk.weight"):
        return turn(tensor, config.kv_heads)
    return tensor


def is_hf(folder: Path) -> bool:
    """Return whether a folder looks like one of Hugging Face's."""
    return (folder / "config.json").is_file()


def read_hf(folder: Path) -> Source:
    """Open a folder with `config.json` and safetensors (or `pytorch_model.bin`) files.

    Raises:
        CheckpointError: not a plain LLaMA, files missing, hostile or contradicting.
    """
    values = read_json(inside(folder, "config.json"))
    config = read_hf_config(values, folder / "config.json")
    files, weight_map = _find_files(folder)
    check_size(config, files, folder / "config.json")
    stored = _index(folder, files, weight_map)
    extra = [name for name in stored if _BUFFER.fullmatch(name)]
    stored = {name: entry for name, entry in stored.items() if name not in extra}
    doubled = config.tied_head and stored.get(_TOP[HEAD])
    shapes = parameter_shapes(replace(config, tied_head=False) if doubled else config)
    check_shapes(
        {name: entry.shape for name, entry in stored.items()},
        {hf_name(name): shape for name, shape in shapes.items()},
        folder,
    )
    for name, entry in stored.items():
        if entry.dtype not in FLOATS:
            raise CheckpointError(f"{folder}: {name} holds {entry.dtype}", "weights are floats")
    if doubled and not torch.equal(doubled.read(), stored[_TOP[EMBEDDING]].read()):
        raise CheckpointError(
            f"{folder} says tie_word_embeddings, and {_TOP[HEAD]} is another table",
            "one of the two is wrong, and it is not known which",
            "correct config.json",
        )

    def read(name: str) -> Tensor:
        return _permuted(config, name, stored[hf_name(name)].read(), to_pairs)

    ids = {key: values[key] for key in ("bos_token_id", "eos_token_id") if values.get(key)}
    return Source(
        kind="hf",
        folder=folder,
        config=config,
        dtypes={name: stored[hf_name(name)].dtype for name in parameter_shapes(config)},
        read=read,
        files=(*files, folder / "config.json"),
        tokenizer=find_tokenizer(folder),
        raw=lambda name: stored[name].read(),
        raw_names=frozenset(stored),
        generation=ids,
    )


def _find_files(folder: Path) -> tuple[tuple[Path, ...], dict[str, str] | None]:
    for single in (_SAFE, _PICKLE):
        index = folder / f"{single}.index.json"
        if index.is_file():
            table = read_json(inside(folder, index.name))
            places = table.get("weight_map") if isinstance(table, dict) else None
            if not isinstance(places, dict) or not places:
                raise CheckpointError(f"{index} has no weight_map", "it does not say what is where")
            names = sorted({str(n): n for n in places.values()}.values(), key=str)
            return tuple(inside(folder, name) for name in names), places
        if (folder / single).exists() or (folder / single).is_symlink():
            return (inside(folder, single),), None
    raise CheckpointError(
        f"{folder} holds neither {_SAFE} nor {_PICKLE}",
        "there are no weights that could be read",
        "name the folder that holds them",
    )


def _index(
    folder: Path, files: tuple[Path, ...], weight_map: dict[str, str] | None
) -> dict[str, Stored]:
    """Find every tensor, each in the file that the index names."""
    if files[0].suffix == ".safetensors":
        tables = [read_safetensors(path) for path in files]
    else:
        tables = [
            {
                name: Stored(
                    path,
                    entry["offset"],
                    getattr(torch, entry["dtype"]),
                    tuple(entry["shape"]),
                    tuple(entry["stride"]),
                )
                for name, entry in table.items()
            }
            for path, table in zip(files, index_pickles(list(files)), strict=True)
        ]
    found: dict[str, Stored] = {}
    for path, table in zip(files, tables, strict=True):
        for name, entry in table.items():
            if name in found or (weight_map is not None and weight_map.get(name) != path.name):
                raise CheckpointError(
                    f"{path} holds {name!r}, which the index places elsewhere",
                    "a tensor that exists twice may have two values",
                    "get the folder again from where it was published",
                )
            found[name] = entry
    lacking = sorted((weight_map or {}).keys() - found.keys())
    if lacking:
        raise CheckpointError(f"{folder} lacks {', '.join(lacking[:5])}", "its index names them")
    return found


@dataclass(frozen=True)
class _Shard:
    name: str
    layout: dict[str, tuple[torch.dtype, tuple[int, ...]]]


def _plan_shards(source: Source, dtype: torch.dtype | None, shard_bytes: int) -> list[_Shard]:
    """Fill shards in the order of the model, none above `shard_bytes` if a tensor allows it."""
    groups: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = [{}]
    filled = 0
    for name, shape in parameter_shapes(source.config).items():
        kept = dtype or source.dtypes[name]
        n_bytes = torch.Size(shape).numel() * kept.itemsize
        if filled and filled + n_bytes > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = (kept, shape)
        filled += n_bytes
    if len(groups) == 1:
        return [_Shard(_SAFE, groups[0])]
    n = len(groups)
    return [_Shard(f"model-{i + 1:05d}-of-{n:05d}.safetensors", g) for i, g in enumerate(groups)]


def write_hf(
    source: Source,
    out: Path,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write a folder that transformers 4 and 5 load as LlamaForCausalLM; return its files.

    Memory: one tensor. `config.json` comes last, so that a folder that was cut short is no model.

    Raises:
        CheckpointError: the architecture is not LLaMA's.
    """
    config = source.config
    require_llama(config, "hf")
    shards = _plan_shards(source, dtype, shard_bytes)
    written, n_bytes = [], 0
    for shard in shards:
        ours = {hf_name(name): name for name in shard.layout}
        layout = {hf_name(name): entry for name, entry in shard.layout.items()}

        def read(name: str, ours: dict[str, str] = ours, layout: dict[str, Any] = layout) -> Tensor:
            tensor = _permuted(config, ours[name], source.read(ours[name]), to_halves)
            return tensor.to(layout[name][0])

        with publish_stream(out / shard.name) as stream:
            stream_safetensors(stream, layout, read)
        written.append(out / shard.name)
        n_bytes += sum(torch.Size(s).numel() * d.itemsize for d, s in layout.values())
    if len(shards) > 1:
        places = {hf_name(name): shard.name for shard in shards for name in shard.layout}
        index = {"metadata": {"total_size": n_bytes}, "weight_map": places}
        publish_json(out / f"{_SAFE}.index.json", index)
    ids = special_ids(source)
    if source.tokenizer is not None:
        write_hf_tokenizer(source.tokenizer, out, config.max_seq_len)
    name = str(dtype or source.dtype).removeprefix("torch.")
    publish_json(
        out / "generation_config.json", {key: v for key, v in ids.items() if v is not None}
    )
    publish_text(out / "README.md", model_card(source, name))
    values = hf_config(config, name, ids["bos_token_id"], ids["eos_token_id"])
    publish_json(out / "config.json", values)
    return [*written, out / "config.json"]
