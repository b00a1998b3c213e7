"""Run folders as a format: read a checkpoint's weights, write a folder that every command opens.

Owns the config of a run that ladderlm has not trained.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from ladderlm.checkpoint.layout import MODEL_FILE
from ladderlm.checkpoint.save import save_checkpoint
from ladderlm.config import to_dict
from ladderlm.convert.tensors import read_safetensors
from ladderlm.convert.weights import (
    Source,
    check_tensors,
    check_vocabulary,
    parameter_shapes,
    require_tokenizer,
)
from ladderlm.data.config import DataConfig
from ladderlm.files import publish_json
from ladderlm.run.directory import RunDirectory
from ladderlm.tokenizer.load import copy_tokenizer, load_tokenizer
from ladderlm.training.config import TrainConfig
from ladderlm.training.run_config import RunConfig

__all__ = ["is_native", "read_native", "write_native"]


def is_native(folder: Path) -> bool:
    """Return whether a folder is a run's."""
    try:
        return "numerics_version" in json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def read_native(folder: Path, checkpoint: str | None = None) -> Source:
    """Open a checkpoint of a run, see `checkpoint.choose.choose`.

    Raises:
        CheckpointError: the checkpoint does not exist or is damaged.
    """
    directory = RunDirectory(folder)
    config = directory.config().model
    path = directory.choose(checkpoint).weights_file
    stored = read_safetensors(path)
    shapes = parameter_shapes(config)
    check_tensors(stored, shapes, path)
    tokenizer = folder / "tokenizer"

    def read(name: str) -> Tensor:
        return stored[name].read()

    return Source(
        kind="native",
        folder=folder,
        config=config,
        dtypes={name: stored[name].dtype for name in shapes},
        read=read,
        files=(path, directory.config_file),
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        raw=read,
        raw_names=frozenset(stored),
    )


def write_native(source: Source, out: Path) -> list[Path]:
    """Write a run folder with one float32 checkpoint of step 0, and return its files.

    Holds one tensor in memory. The config is written last, so an incomplete folder is no run.

    Raises:
        CheckpointError: the model has no tokenizer, or one that is too large.
    """
    place = require_tokenizer(source)
    copy_tokenizer(place, out / "tokenizer")
    tokenizer = load_tokenizer(out / "tokenizer")
    check_vocabulary(tokenizer.vocab_size, place, source.config)
    seq_len = source.config.max_seq_len
    config = RunConfig(
        model=source.config,
        data=DataConfig(seq_len=seq_len, tokenizer_fingerprint=tokenizer.fingerprint),
        train=TrainConfig(global_batch_tokens=seq_len),
    )
    state = {
        "run_id": config.run_id,
        "step": 0,
        "n_tokens": 0,
        "best": {},
        "timing": {"seconds": 0.0, "restarts": 0},
    }
    layout = {
        name: torch.empty(shape, dtype=torch.float32, device="meta")
        for name, shape in parameter_shapes(source.config).items()
    }
    folder = save_checkpoint(
        out / "checkpoints", layout, {}, state, read=lambda name: source.read(name).float()
    )
    publish_json(out / "config.json", to_dict(config))
    return [folder / MODEL_FILE, out / "config.json"]
