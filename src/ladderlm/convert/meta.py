"""Read and write Meta's folders: `params.json` and `consolidated.NN.pth`, a file per process.

Owns how shards are joined and split. Column-parallel matrices (wq, wk, wv, w1, w3, output) are
split by rows, row-parallel ones (wo, w2) by columns, norms are copied. The embedding is split by
columns in LLaMA 1 and 2 (ParallelEmbedding) and by rows in LLaMA 3 (VocabParallelEmbedding).
Sources: facebookresearch/llama and meta-llama/llama3, model.py.
"""

import hashlib
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ladderlm.convert.params import model_config, params_of, read_params
from ladderlm.convert.pickles import index_pickles
from ladderlm.convert.tensors import Shape, Stored, inside
from ladderlm.convert.vocabulary import find_tokenizer
from ladderlm.convert.weights import (
    EMBEDDING,
    HEAD,
    Source,
    check_size,
    check_tensors,
    parameter_shapes,
    require_llama,
)
from ladderlm.errors import CheckpointError
from ladderlm.files import publish_json, publish_stream
from ladderlm.model.config import ModelConfig

__all__ = ["is_meta", "read_meta", "write_meta"]

_BY_ROWS = ("wq.weight", "wk.weight", "wv.weight", "w1.weight", "w3.weight", HEAD)
_BY_COLUMNS = ("wo.weight", "w2.weight")
_MOST_SHARDS = 64
_TABLE = "rope.freqs"  # in Meta's files; the config determines it


def is_meta(folder: Path) -> bool:
    """Return whether a folder looks like one of Meta's."""
    return (folder / "params.json").is_file() or any(folder.glob("consolidated.*"))


def read_meta(folder: Path, max_seq_len: int | None = None) -> Source:
    """Open a folder of LLaMA 1, 2 or 3 with any number of shards.

    Args:
        max_seq_len: context of the model; None: the published one of its generation.

    Raises:
        CheckpointError: files are missing, unsafe, or do not belong together.
    """
    params = read_params(folder)
    files = _find_shards(folder)
    _check_md5(folder)
    tables = index_pickles(files)
    for path, table in zip(files, tables, strict=True):
        table.pop(_TABLE, None)
        check_tensors(table, {name: stored.shape for name, stored in tables[0].items()}, path)
    if EMBEDDING not in tables[0] or len(tables[0][EMBEDDING].shape) != 2:
        raise CheckpointError(f"{files[0]} has no {EMBEDDING}, so it is no LLaMA of Meta's")
    n_rows, n_columns = tables[0][EMBEDDING].shape
    by_rows = n_columns == params.get("dim")
    vocab_size = n_rows * len(files) if by_rows else n_rows
    config, ignored = model_config(params, vocab_size, max_seq_len, folder / "params.json")
    check_size(config, tuple(files), folder / "params.json")
    config = replace(config, tied_head=HEAD not in tables[0])
    shapes = parameter_shapes(config)
    axes = {name: axis_of(name, by_rows) for name in shapes}
    for path, table in zip(files, tables, strict=True):
        expected = {n: _shard_shape(shape, axes[n], len(files)) for n, shape in shapes.items()}
        check_tensors(table, expected, path)
    read = partial(_join, tables, axes)
    if not config.tied_head and torch.equal(read(HEAD), read(EMBEDDING)):
        config = replace(config, tied_head=True)  # LLaMA 3.2's files hold the table twice
    # Meta's download script puts LLaMA 2's tokenizer next to the folders of its sizes.
    above = folder.resolve().parent / "tokenizer.model"
    return Source(
        kind="meta",
        folder=folder,
        config=config,
        dtypes={name: tables[0][name].dtype for name in parameter_shapes(config)},
        read=read,
        files=(*files, folder / "params.json"),
        tokenizer=find_tokenizer(folder, above.name) or (above if above.is_file() else None),
        raw=read,
        raw_names=frozenset(tables[0]),
        ignored=ignored,
    )


def _find_shards(folder: Path) -> list[Path]:
    names = sorted(path.name for path in folder.glob("*.pth"))
    numbers = [int(m[1]) for n in names if (m := re.fullmatch(r"consolidated\.(\d+)\.pth", n))]
    if not names or (numbers and numbers != list(range(len(names)))) or len(names) > _MOST_SHARDS:
        raise CheckpointError(
            f"{folder} must hold consolidated.00.pth and so on, without a gap, it holds "
            f"{', '.join(names[:9]) or 'no *.pth file'}",
            fix="download the files that are missing, and move other *.pth files away",
        )
    return [inside(folder, name) for name in names]


def _check_md5(folder: Path) -> None:
    """Compare files with `checklist.chk`, if Meta's download script has left one."""
    checklist = folder / "checklist.chk"
    if not checklist.is_file() or checklist.stat().st_size > 1 << 20:
        return
    for line in checklist.read_text("utf-8", "replace").splitlines():
        stated, _, name = line.partition(" ")
        path = folder / name.strip(" *")
        if Path(name.strip(" *")).name != name.strip(" *") or not path.is_file():
            continue
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
        if found != stated.lower():
            raise CheckpointError(
                f"{path} is damaged: its MD5 is {found}, checklist.chk says {stated}",
                fix="download the file again",
            )


def axis_of(name: str, embedding_by_rows: bool) -> int | None:
    """Return the axis along which a parameter is split; None: every process holds all of it."""
    if name == EMBEDDING:
        return 0 if embedding_by_rows else 1
    if name.endswith(_BY_ROWS):
        return 0
    return 1 if name.endswith(_BY_COLUMNS) else None


def _shard_shape(shape: Shape, axis: int | None, n_shards: int) -> Shape:
    """Return the shape of one process's part, rounded down."""
    return tuple(n // n_shards if i == axis else n for i, n in enumerate(shape))


def _join(tables: list[dict[str, Stored]], axes: dict[str, int | None], name: str) -> Tensor:
    parts = [table[name].read() for table in tables]
    axis = axes[name]
    if axis is not None:
        return torch.cat(parts, axis) if len(parts) > 1 else parts[0]
    if any(not torch.equal(part, parts[0]) for part in parts):
        raise CheckpointError(
            f"{tables[0][name].path}: {name} differs between the shards",
            "every shard has a copy of it, so they are not of one model",
            "download all of them again from one place",
        )
    return parts[0]


def write_meta(
    source: Source, out: Path, dtype: torch.dtype | None = None, n_shards: int = 1
) -> list[Path]:
    """Write a folder that Meta's code loads on `n_shards` processes, and return its files.

    Holds one shard and one tensor in memory. `params.json` is written last, so an incomplete folder
    is no model.

    Args:
        dtype: of all tensors; None: as stored.

    Raises:
        CheckpointError: the shape does not split evenly, or `params.json` cannot express it.
    """
    config = source.config
    require_llama(config, "meta")
    params = params_of(config)
    by_rows = "rope_theta" in params  # an option of LLaMA 3's code only
    shapes = parameter_shapes(replace(config, tied_head=False))
    axes = {name: axis_of(name, by_rows) for name in shapes}
    _check_split(config, shapes, axes, n_shards)
    written = []
    for shard in range(n_shards):
        state = {}
        for name, axis in axes.items():
            whole = _whole(source, name) if name == HEAD else source.read(name)
            part = whole if axis is None else whole.chunk(n_shards, axis)[shard]
            state[name] = part.to(dtype or whole.dtype, copy=True).contiguous()
        path = out / f"consolidated.{shard:02d}.pth"
        with publish_stream(path) as stream:
            torch.save(state, stream)
        written.append(path)
    publish_json(out / "params.json", params)
    return [*written, out / "params.json"]


def _whole(source: Source, name: str) -> Tensor:
    """Read the head. Meta's files have one even if it is tied to the embedding."""
    return source.read(EMBEDDING if source.config.tied_head else name)


def _check_split(
    config: ModelConfig, shapes: dict[str, Shape], axes: dict[str, int | None], n_shards: int
) -> None:
    sizes = {"n_heads": config.n_heads, "n_kv_heads": config.kv_heads}
    sizes |= {f"axis {a} of {n}": shapes[n][a] for n, a in axes.items() if a is not None}
    for what, size in sizes.items():
        if size % n_shards:
            raise CheckpointError(
                f"{what} is {size}, which does not split into {n_shards} equal shards",
                fix=f"choose a number of shards that divides {size}",
            )
