"""Which checkpoint is meant.

Owns the one answer to "last, best, average or a step", for every command that reads a run. No
torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ladderlm.checkpoint.layout import (
    AVERAGE_FILE,
    MODEL_FILE,
    Checkpoint,
    list_checkpoints,
    newest_good,
    verify_checkpoint,
)
from ladderlm.errors import CheckpointError

__all__ = ["ChosenCheckpoint", "choose"]


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A verified checkpoint, and which of its weights are meant."""

    checkpoint: Checkpoint
    weights_hash: str  # SHA-256 of the weights' file
    averaged: bool = False  # the average of the weights over the run, not the last weights

    @classmethod
    def verified(cls, checkpoint: Checkpoint, averaged: bool = False) -> Self:
        """Verify every file of a checkpoint and choose its weights or their average.

        Raises:
            CheckpointError: it is damaged, or holds no average.
        """
        files = verify_checkpoint(checkpoint)["files"]
        name = AVERAGE_FILE if averaged else MODEL_FILE
        if name not in files:
            raise CheckpointError(
                f"the checkpoint of step {checkpoint.step} holds no average of the weights",
                "only runs with train.ema_decay keep one",
                "choose last, best or a step instead",
            )
        return cls(checkpoint, str(files[name]["sha256"]), averaged)

    @property
    def step(self) -> int:
        """Number of updates the weights have had."""
        return self.checkpoint.step

    @property
    def weights_file(self) -> Path:
        """The safetensors file of the weights."""
        return self.checkpoint.folder / (AVERAGE_FILE if self.averaged else MODEL_FILE)


def choose(
    checkpoints: Path, wanted: str | int | None = None, best_step: int | None = None
) -> ChosenCheckpoint:
    """Return the wanted checkpoint, verified.

    Args:
        checkpoints: the run's folder of checkpoints.
        wanted: a step, a folder's name, "last", "best" or "average" (of the weights over the run,
            at the last step). None: the newest that is not damaged.
        best_step: step of the lowest validation loss, from the run's summary.

    Raises:
        CheckpointError: the run has no checkpoint, or not the wanted one, or it is damaged.
    """
    found = list_checkpoints(checkpoints)
    if not found:
        raise CheckpointError(
            f"{checkpoints.parent} holds no checkpoint yet",
            fix="wait until the run has saved its first one",
        )
    if wanted is None and (newest := newest_good(checkpoints, ChosenCheckpoint.verified)):
        return newest
    step = best_step if wanted == "best" else _step(str(wanted), found[-1].step)
    for checkpoint in found:
        if checkpoint.step == step:
            return ChosenCheckpoint.verified(checkpoint, wanted == "average")
    raise CheckpointError(
        f"{checkpoints.parent} has no checkpoint {wanted!r}, only those of steps "
        f"{[checkpoint.step for checkpoint in found]}",
        fix="choose one of these steps, last, best or average, or leave it out for the newest",
    )


def _step(wanted: str, last: int) -> int | None:
    if wanted in ("last", "average"):
        return last
    digits = wanted.removeprefix("step-")
    return int(digits) if digits.isdecimal() else None
