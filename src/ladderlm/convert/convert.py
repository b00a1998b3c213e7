"""From any format to any other.

Owns how a folder's format is told, and the order of a conversion: read headers, check, write.
"""

from dataclasses import replace
from pathlib import Path

import torch

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
        checkpoint: of a run, see `checkpoint.choose.choose`.
        max_seq_len: context of the model, where the format does not say it or it shall be another.
        tokenizer: folder with a tokenizer, if not its own.

    Raises:
        CheckpointError: of no known format, or damaged, or hostile.
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
            "a run has config.json and checkpoints/, Meta's folder has params.json and "
            "consolidated.00.pth, Hugging Face's has config.json and model.safetensors",
            "check the path",
        )
    if max_seq_len is not None:
        source = replace(source, config=replace(source.config, max_seq_len=max_seq_len))
    if tokenizer is not None:
        place = find_tokenizer(tokenizer)
        if place is None:
            raise CheckpointError(f"--tokenizer {tokenizer} is no tokenizer", "", "check the path")
        source = replace(source, tokenizer=place)
    return source


def convert(
    source: Source, to: str, out: Path, *, dtype: str | None = None, n_shards: int = 1
) -> list[Path]:
    """Write a model in another format; return the files its numbers depend on.

    Args:
        to: "meta", "hf", "gguf" or "native".
        out: a folder that does not exist or is empty.
        dtype: of the tensors; None: as stored (native: always float32). GGUF also has q8_0.
        n_shards: files of Meta's format, one for each process.

    Raises:
        ConfigError: options that do not go together.
        CheckpointError: the format cannot hold this model.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"--out {out} is not an empty folder",
            "files of two models in one folder would be taken for one",
            "name another folder, or empty that one",
        )
    if n_shards != 1 and to != "meta":
        raise ConfigError(f"--shards {n_shards} with --to {to}", "only Meta's format is split so")
    if to == "native" and dtype not in (None, "float32"):
        raise ConfigError(f"--dtype {dtype} with --to native", "a run holds float32 weights")
    if to != "gguf" and dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype} with --to {to}", f"there it is one of {list(DTYPES)}")
    width = {"q8_0": 2}.get(dtype or "", DTYPES.get(dtype or "", source.dtype).itemsize)
    check_free_space(out, count_params(source.config).total * (4 if to == "native" else width))
    kept = None if dtype is None else DTYPES.get(dtype)
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
