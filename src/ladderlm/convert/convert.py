"""Conversion from any format to any other.

Owns the detection of a folder's format, and the order of a conversion: read headers, check, write.
"""

from dataclasses import replace
from pathlib import Path

import torch

from ladderlm.config import require
from ladderlm.convert.gguf import write_gguf
from ladderlm.convert.hf import is_hf, read_hf, write_hf
from ladderlm.convert.meta import is_meta, read_meta, write_meta
from ladderlm.convert.native import is_native, read_native, write_native
from ladderlm.convert.vocabulary import find_tokenizer
from ladderlm.convert.weights import Source, parameter_shapes
from ladderlm.errors import CheckpointError, ConfigError
from ladderlm.files import check_free_space
from ladderlm.model.accounting import count_params
from ladderlm.tokenizer.load import copy_tokenizer

__all__ = ["DTYPES", "convert", "describe_weights", "open_source"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_source(
    folder: Path,
    *,
    checkpoint: str | None = None,
    max_seq_len: int | None = None,
    tokenizer: Path | None = None,
) -> Source:
    """Open a folder of any format, detected from its files.

    Args:
        checkpoint: for a run, see `checkpoint.choose.choose`.
        max_seq_len: replaces the context of the model.
        tokenizer: replaces the tokenizer of the folder.

    Raises:
        CheckpointError: the format is unknown, or the files are damaged or unsafe.
    """
    if is_native(folder):
        source = read_native(folder, checkpoint)
    elif is_meta(folder):
        source = read_meta(folder, max_seq_len)
    elif is_hf(folder):
        source = read_hf(folder)
    else:
        raise CheckpointError(
            f"{folder} is no model",
            fix="name a folder of a run (config.json and checkpoints/), of Meta's (params.json and "
            "consolidated.00.pth) or of Hugging Face's (config.json and model.safetensors)",
        )
    if max_seq_len is not None:
        source = replace(source, config=replace(source.config, max_seq_len=max_seq_len))
    if tokenizer is not None:
        place = find_tokenizer(tokenizer)
        if place is None:
            raise CheckpointError(f"--tokenizer {tokenizer} is no tokenizer", fix="check the path")
        source = replace(source, tokenizer=place)
    return source


def convert(
    source: Source, to: str, out: Path, *, dtype: str | None = None, n_shards: int = 1
) -> list[Path]:
    """Write a model in another format, and return the files that its numbers depend on.

    Args:
        to: "meta", "hf", "gguf" or "native".
        out: a folder that does not exist or is empty.
        dtype: of the tensors; None: as stored (native: always float32). GGUF also has q8_0.
        n_shards: files of Meta's format, one per process.

    Raises:
        ConfigError: the options cannot be combined.
        CheckpointError: the format cannot express this model.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"--out {out} is not an empty folder",
            "the files of two models would be mixed",
            "name another folder, or empty that one",
        )
    shards = n_shards == 1 or to == "meta"
    require(f"--shards with --to {to}", n_shards, shards, "be 1; only Meta's format has shards")
    dtypes = ["float32"] if to == "native" else [*DTYPES, *(["q8_0"] if to == "gguf" else [])]
    known = dtype is None or dtype in dtypes
    require(f"--dtype with --to {to}", dtype, known, f"be {' or '.join(dtypes)}")
    kept = None if dtype is None else DTYPES.get(dtype)
    width = 4 if to == "native" else 2 if dtype == "q8_0" else (kept or source.dtype).itemsize
    check_free_space(out, count_params(source.config).total * width)
    if to == "meta":
        if source.tokenizer is not None:
            copy_tokenizer(source.tokenizer, out)
        return write_meta(source, out, kept, n_shards)
    if to == "hf":
        return write_hf(source, out, kept)
    if to == "native":
        return write_native(source, out)
    return write_gguf(source, out, dtype)


def describe_weights(source: Source) -> str:
    """Return a one-line description of a model."""
    names = sorted({str(d).removeprefix("torch.") for d in source.dtypes.values()})
    return (
        f"{source.folder}: {source.kind}, {count_params(source.config).total:,} parameters in "
        f"{len(parameter_shapes(source.config))} tensors of {' and '.join(names)}"
    )
