"""Which checkpoint is meant.

Owns the one answer to "last, best, average or a step", for every command that reads a run. No
torch.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ladderlm.checkpoint.layout import (
    AVERAGE_FILE,
    MODEL_FILE,
    Checkpoint,
    list_checkpoints,
    verify_checkpoint,
)
from ladderlm.errors import CheckpointError

__all__ = ["ChosenCheckpoint", "choose", "weights_hash"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A verified checkpoint, and which of its weights are meant.

    Args:
        weights_hash: SHA-256 of the weights' file.
        averaged: the average of the weights over the run, not those of the last update.
    """

    checkpoint: Checkpoint
    weights_hash: str
    averaged: bool = False

    @classmethod
    def verified(cls, checkpoint: Checkpoint, averaged: bool = False) -> Self:
        """Verify every file of a checkpoint.

        Raises:
            CheckpointError: it is damaged, or holds no average.
        """
        manifest = verify_checkpoint(checkpoint)
        return cls(checkpoint, weights_hash(manifest, averaged), averaged)

    @property
    def step(self) -> int:
        """Updates that the weights had."""
        return self.checkpoint.step

    @property
    def weights_file(self) -> Path:
        """The safetensors file of the weights."""
        return self.checkpoint.folder / (AVERAGE_FILE if self.averaged else MODEL_FILE)


def weights_hash(manifest: dict[str, Any], averaged: bool = False) -> str:
    """Return the SHA-256 of a checkpoint's weights, or of their average, from its manifest.

    Raises:
        CheckpointError: there is no average.
    """
    name = AVERAGE_FILE if averaged else MODEL_FILE
    if name not in manifest["files"]:
        raise CheckpointError(
            f"the checkpoint of step {manifest['step']} holds no average of the weights",
            fix="name last, best or a step instead; runs with train.ema_decay keep an average",
        )
    return str(manifest["files"][name]["sha256"])


def choose(
    checkpoints: Path, wanted: str | int | None = None, best_step: int | None = None
) -> ChosenCheckpoint:
    """Return the checkpoint that is meant, verified.

    Args:
        checkpoints: the run's folder of checkpoints.
        wanted: a step, a folder's name, "last", "best" or "average" (of the weights over the run,
            as of the last step); None: the newest that is not damaged.
        best_step: of the lowest validation loss, from the run's summary.

    Raises:
        CheckpointError: there is none, or no such one, or it is damaged.
    """
    found = list_checkpoints(checkpoints)
    if not found:
        raise CheckpointError(
            f"{checkpoints.parent} holds no checkpoint yet",
            fix="let the run continue until its first one",
        )
    if wanted is None:
        return _newest_good(found)
    step = best_step if wanted == "best" else _step(str(wanted), found[-1].step)
    for checkpoint in found:
        if checkpoint.step == step:
            return ChosenCheckpoint.verified(checkpoint, wanted == "average")
    raise CheckpointError(
        f"{checkpoints.parent} has no checkpoint {wanted!r}",
        f"it has {[checkpoint.step for checkpoint in found]}",
        "name the step of one of those, last, best or average, or none for the newest",
    )


def _step(wanted: str, last: int) -> int | None:
    if wanted in ("last", "average"):
        return last
    digits = wanted.removeprefix("step-")
    return int(digits) if digits.isdecimal() else None


def _newest_good(found: Sequence[Checkpoint]) -> ChosenCheckpoint:
    for checkpoint in reversed(found):
        try:
            return ChosenCheckpoint.verified(checkpoint)
        except CheckpointError as error:
            _log.warning("passing over a damaged checkpoint: %s", error.what)
    raise CheckpointError(
        f"all {len(found)} checkpoints in {found[0].folder.parent} are damaged",
        "there are no good weights to read",
        "restore the folder from a copy",
    )
