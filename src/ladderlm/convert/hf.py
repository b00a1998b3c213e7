"""Read and write Hugging Face folders of a Llama: safetensors with an index.

Owns the names and the layout of q and k. RoPE rotates neighbouring channels (2i, 2i + 1) of a head
in Meta's layout, and channels i and i + E/2 in Hugging Face's. So the rows of wq and wk are
permuted within each head: (E/2, 2) becomes (2, E/2). k has n_kv_heads heads.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ladderlm.convert.card import model_card
from ladderlm.convert.hf_config import hf_config, read_hf_config
from ladderlm.convert.pickles import index_pickles
from ladderlm.convert.tensors import Shape, Stored, inside, read_safetensors, stream_safetensors
from ladderlm.convert.vocabulary import find_tokenizer, special_ids, write_hf_tokenizer
from ladderlm.convert.weights import (
    EMBEDDING,
    HEAD,
    Source,
    check_size,
    check_tensors,
    foreign_name,
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
    return foreign_name(name, _TOP, _LAYER, "model.layers")


def to_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Permute the rows of wq or wk from Meta's neighbouring pairs to Hugging Face's halves."""
    rows, columns = weight.shape
    paired = weight.view(n_heads, rows // n_heads // 2, 2, columns)
    return paired.transpose(1, 2).reshape(rows, columns)


def to_pairs(weight: Tensor, n_heads: int) -> Tensor:
    """Invert `to_halves`."""
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
        CheckpointError: it is not a plain LLaMA, or files are missing, unsafe or do not agree.
    """
    values = read_json(inside(folder, "config.json"))
    config = read_hf_config(values, folder / "config.json")
    files, weight_map = _find_files(folder)
    check_size(config, files, folder / "config.json")
    stored = _index(folder, files, weight_map)
    stored = {name: entry for name, entry in stored.items() if not _BUFFER.fullmatch(name)}
    head = config.tied_head and stored.get(_TOP[HEAD])
    shapes = parameter_shapes(replace(config, tied_head=False) if head else config)
    check_tensors(stored, {hf_name(name): shape for name, shape in shapes.items()}, folder)
    if head and not torch.equal(head.read(), stored[_TOP[EMBEDDING]].read()):
        raise CheckpointError(
            f"{folder} says tie_word_embeddings, and {_TOP[HEAD]} is another table",
            "one of the two is wrong",
            "correct tie_word_embeddings in config.json",
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
                raise CheckpointError(f"{index} has no weight_map")
            names = sorted({str(n): n for n in places.values()}.values(), key=str)
            return tuple(inside(folder, name) for name in names), places
        if (folder / single).exists() or (folder / single).is_symlink():
            return (inside(folder, single),), None
    raise CheckpointError(
        f"{folder} holds neither {_SAFE} nor {_PICKLE}", fix="name the folder that holds one"
    )


def _index(
    folder: Path, files: tuple[Path, ...], weight_map: dict[str, str] | None
) -> dict[str, Stored]:
    """Return every tensor, each from the file that the index names."""
    if files[0].suffix == ".safetensors":
        tables = [read_safetensors(path) for path in files]
    else:
        tables = index_pickles(list(files))
    found: dict[str, Stored] = {}
    for path, table in zip(files, tables, strict=True):
        for name, entry in table.items():
            if name in found or (weight_map is not None and weight_map.get(name) != path.name):
                raise CheckpointError(
                    f"{path} holds {name!r}, which the index places elsewhere",
                    "a tensor that exists twice may have two values",
                    "download the folder again from where it was published",
                )
            found[name] = entry
    if lacking := sorted((weight_map or {}).keys() - found.keys()):
        raise CheckpointError(f"{folder} lacks {', '.join(lacking[:5])}, which its index names")
    return found


def _plan_shards(
    source: Source, dtype: torch.dtype | None, shard_bytes: int
) -> dict[str, dict[str, tuple[torch.dtype, Shape]]]:
    """Return dtype and shape of the tensors of each file, by Meta's names.

    Files are filled in the order of the model up to `shard_bytes`, with at least one tensor each.
    """
    groups: list[dict[str, tuple[torch.dtype, Shape]]] = [{}]
    filled = 0
    for name, shape in parameter_shapes(source.config).items():
        kept = dtype or source.dtypes[name]
        n_bytes = torch.Size(shape).numel() * kept.itemsize
        if filled and filled + n_bytes > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = (kept, shape)
        filled += n_bytes
    if (n := len(groups)) == 1:
        return {_SAFE: groups[0]}
    return {f"model-{i:05d}-of-{n:05d}.safetensors": group for i, group in enumerate(groups, 1)}


def write_hf(
    source: Source,
    out: Path,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write a folder that transformers 4 and 5 load as LlamaForCausalLM, and return its files.

    Holds one tensor in memory. `config.json` is written last, so an incomplete folder is no model.

    Raises:
        CheckpointError: the architecture is not LLaMA's.
    """
    config = source.config
    require_llama(config, "hf")
    shards = _plan_shards(source, dtype, shard_bytes)
    written, n_bytes = [], 0
    ours = {hf_name(name): name for name in parameter_shapes(config)}

    def read(name: str) -> Tensor:
        tensor = _permuted(config, ours[name], source.read(ours[name]), to_halves)
        return tensor.to(dtype or tensor.dtype)

    for file, shard in shards.items():
        with publish_stream(out / file) as stream:
            stream_safetensors(
                stream, {hf_name(name): entry for name, entry in shard.items()}, read
            )
        written.append(out / file)
        n_bytes += sum(torch.Size(s).numel() * d.itemsize for d, s in shard.values())
    if len(shards) > 1:
        places = {hf_name(name): file for file, shard in shards.items() for name in shard}
        index = {"metadata": {"total_size": n_bytes}, "weight_map": places}
        publish_json(out / f"{_SAFE}.index.json", index)
    ids = special_ids(source)
    if source.tokenizer is not None:
        write_hf_tokenizer(source.tokenizer, out, config.max_seq_len)
    name = str(dtype or source.dtype).removeprefix("torch.")
    known = {key: value for key, value in ids.items() if value is not None}
    publish_json(out / "generation_config.json", known)
    publish_text(out / "README.md", model_card(source, name))
    publish_json(out / "config.json", hf_config(config, name, *ids.values()))
    return [*written, out / "config.json"]
