"""The state that a resumed run must restore.

Owns `TrainState`, its saving and its restoring.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ladderlm.checkpoint.layout import rotate, step_folder
from ladderlm.checkpoint.load import SavedState, load_optimizer, load_weights
from ladderlm.checkpoint.save import optimizer_tensors, save_checkpoint
from ladderlm.checkpoint.slices import write_slice
from ladderlm.errors import CheckpointError, LadderError
from ladderlm.files import remove_tree
from ladderlm.model.transformer import Transformer
from ladderlm.training.average import WeightAverage
from ladderlm.training.compute import Compute
from ladderlm.training.loss_scale import LossScale
from ladderlm.training.sharding import Sharding

__all__ = ["TrainState"]


@dataclass
class TrainState:
    """Model, optimizer and counters of a run.

    Args:
        compute: the model that a step computes with.
        step: updates done; the position in the data and all randomness follow from it.
        n_tokens: targets trained on so far.
        seconds: seconds of training, summed over restarts.
        aside_seconds: seconds of logging and saving, not in `seconds`.
        restarts: number of times the run was resumed.
        best: {"step", "loss"} of the checkpoint with the lowest validation loss so far.
        average: average of the weights over the run; None: the run keeps none.
        branched_from: {"trunk", "step"} of the run whose first steps were taken over; None: the
            run has made all its steps.
    """

    model: Transformer
    optimizer: torch.optim.Optimizer
    compute: Compute
    run_id: str
    step: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    aside_seconds: float = 0.0
    restarts: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    average: WeightAverage | None = None
    branched_from: dict[str, Any] | None = None

    @property
    def sharding(self) -> Sharding:
        """Distribution of weights and state over the processes."""
        return self.compute.sharding

    @property
    def device(self) -> str:
        """Type of the device that the weights are on."""
        return self.model.tok_embeddings.weight.device.type

    @property
    def loss_scale(self) -> LossScale | None:
        """Loss scale of an fp16 run; None with any other precision."""
        return self.compute.loss_scale

    def restore(self, saved: SavedState) -> None:
        """Restore a verified checkpoint.

        Raises:
            CheckpointError: it belongs to another config, or does not fit the model.
        """
        source = str(saved.checkpoint.folder)
        if saved.state.get("run_id") != self.run_id:
            raise CheckpointError(
                f"{source} belongs to run {saved.state.get('run_id')}, the config to {self.run_id}",
                "they differ in an option that can change a number",
                "use the run's own config.json, or another --out for the new config",
            )
        load_weights(self.model, saved.weights, source)
        if self.average is not None:
            with self.average.in_place():
                load_weights(self.model, saved.average, f"{source} (average)")
        self.step, self.n_tokens = int(saved.state["step"]), int(saved.state["n_tokens"])
        n_updates = self.step
        if self.loss_scale is not None:
            vars(self.loss_scale).update(saved.state["loss_scale"])
            n_updates -= self.loss_scale.n_skipped
        if n_updates > 0:  # before the first update the optimizer keeps no state
            partial = self.sharding.owned is not None
            load_optimizer(self.optimizer, saved.optimizer, source, partial)
        timing = saved.state["timing"]
        self.best = dict(saved.state["best"])
        self.branched_from = saved.state.get("branched_from")
        self.seconds = float(timing["seconds"])
        self.aside_seconds = float(timing.get("aside_seconds", 0.0))
        self.restarts = int(timing["restarts"]) + 1

    def save(self, checkpoints: Path, keep: int, keep_steps: Iterable[int] = ()) -> None:
        """Publish a checkpoint of this step, then delete checkpoints that need not be kept.

        Every process calls it; if state is distributed over them, each writes its own slice.

        Args:
            keep: number of newest checkpoints to keep, besides the best.
            keep_steps: further steps to keep.

        Raises:
            LadderError: a process could not write; older checkpoints are untouched.
        """
        sharding = self.sharding
        slices = self._save_slices(checkpoints) if sharding.kind != "none" else None
        weights = sharding.whole_on_first(dict(self.model.named_parameters()))
        average = None
        if self.average is not None:
            average = sharding.whole_on_first(self.average.weights)
        if not sharding.processes.first:
            return
        state: dict[str, Any] = {
            "run_id": self.run_id,
            "step": self.step,
            "n_tokens": self.n_tokens,
            "best": self.best,
            "timing": {
                "seconds": self.seconds,
                "aside_seconds": self.aside_seconds,
                "restarts": self.restarts,
            },
        }
        if self.loss_scale is not None:
            state["loss_scale"] = asdict(self.loss_scale)
        if self.branched_from is not None:
            state["branched_from"] = self.branched_from
        save_checkpoint(
            checkpoints,
            weights,
            {} if slices is not None else optimizer_tensors(self.optimizer),
            state,
            average=average,
            slices=slices,
        )
        best = {self.best["step"]} if self.best else set()
        rotate(checkpoints, keep, {*best, *keep_steps})

    def _save_slices(self, checkpoints: Path) -> dict[str, Any]:
        """Write each process's part of the optimizer's state and return the files' entries."""
        sharding, processes = self.sharding, self.sharding.processes
        folder = step_folder(checkpoints, self.step)
        if processes.first and folder.exists():
            remove_tree(folder)
        processes.wait()
        try:
            parts = sharding.own_state(self.optimizer)
            made: Any = write_slice(folder, processes.rank, processes.world_size, parts)
        except LadderError as error:  # all must know, or the others would wait forever
            made = f"process {processes.rank}: {error.what}"
        entries: dict[str, Any] = {}
        for found in processes.gather(made):
            if isinstance(found, str):
                raise CheckpointError(f"the optimizer's state could not be saved: {found}")
            entries |= found
        return entries
