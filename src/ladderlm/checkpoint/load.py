"""Read a checkpoint back, strictly.

Owns the checks that every tensor is there, once, with its shape and dtype. Uses no pickle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ladderlm.checkpoint.layout import (
    AVERAGE_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    Checkpoint,
    verify_checkpoint,
)
from ladderlm.checkpoint.slices import SlicedTensors, slice_files
from ladderlm.dist import cut_like
from ladderlm.errors import CheckpointError
from ladderlm.files import read_json
from ladderlm.optim.groups import STATE_OF_RULE

__all__ = [
    "SavedState",
    "load_optimizer",
    "load_state",
    "load_weights",
    "read_tensors",
]


@dataclass(frozen=True)
class SavedState:
    """A verified checkpoint in memory; `average` is empty where the run keeps none."""

    checkpoint: Checkpoint
    weights: dict[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: dict[str, Any]
    average: dict[str, Tensor]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        CheckpointError: it is not a readable safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def load_state(checkpoint: Checkpoint) -> SavedState:
    """Verify and read one checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    manifest, folder = verify_checkpoint(checkpoint), checkpoint.folder
    slices = slice_files(manifest)
    return SavedState(
        checkpoint,
        read_tensors(folder / MODEL_FILE),
        SlicedTensors(folder, slices) if slices else read_tensors(folder / OPTIMIZER_FILE),
        read_json(folder / STATE_FILE),
        read_tensors(folder / AVERAGE_FILE) if AVERAGE_FILE in manifest["files"] else {},
    )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a model; every name, shape and dtype must match.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape or dtype.
    """
    parameters = dict(model.named_parameters())
    _check_names(set(parameters), set(weights), source)
    with torch.no_grad():
        for name, parameter in parameters.items():
            _check_tensor(name, weights[name], parameter, source)
            parameter.copy_(cut_like(weights[name], parameter))


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    source: str,
    partial: bool = False,
) -> None:
    """Restore saved optimizer state; kinds, names and shapes must match exactly.

    Args:
        partial: the optimizer has only some of the parameters; other processes own the rest.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape or dtype.
    """
    named = [
        (name, parameter, STATE_OF_RULE[group["rule"]])
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    ]
    expected = {f"{kind}.{n}" for n, _, kinds in named for kind in kinds}
    _check_names(expected, set(tensors) & expected if partial else set(tensors), source)
    for name, parameter, kinds in named:
        state: dict[str, Tensor] = {}
        for kind in kinds:
            saved = tensors[f"{kind}.{name}"]
            like = torch.zeros(()) if kind == "step" else parameter
            _check_tensor(f"{kind}.{name}", saved, like, source)
            # fused kernels need the count of updates on the parameter's device
            count = kind == "step"
            state[kind] = saved.to(parameter.device) if count else cut_like(saved, parameter)
        optimizer.state[parameter] = state


def _check_names(expected: set[str], found: set[str], source: str) -> None:
    if expected != found:
        missing, extra = sorted(expected - found), sorted(found - expected)
        parts = [f"missing: {', '.join(missing[:5])}"] if missing else []
        parts += [f"unknown: {', '.join(extra[:5])}"] if extra else []
        raise CheckpointError(
            f"{source} does not fit the model: {'; '.join(parts)}",
            "a missing weight would keep its random value",
            "load it with the config it was saved with (config.json of the run)",
        )


def _check_tensor(name: str, saved: Tensor, parameter: Tensor, source: str) -> None:
    if saved.shape != parameter.shape or saved.dtype != parameter.dtype:
        raise CheckpointError(
            f"{source}: {name} is {saved.dtype} {tuple(saved.shape)}, the model has "
            f"{parameter.dtype} {tuple(parameter.shape)}",
            fix="load it with the config it was saved with (config.json of the run)",
        )
