"""The first steps of a run, taken from a longer one (its trunk).

A WSD run has a constant learning rate until its cooldown begins. So, with an absolute warm-up, the
first steps of a short run equal those of every longer one with the same seeds, bit for bit (on one
kind of CPU, with equal execution). Owns the check of this, and the choice of the checkpoint. Source
of the idea: Hägele et al. 2024 (2405.18392), section 3.
"""

import logging
from dataclasses import replace
from typing import Any

from ladderlm.checkpoint.layout import list_checkpoints
from ladderlm.checkpoint.load import SavedState, load_state
from ladderlm.config import differences, meaning_of
from ladderlm.dist import Processes
from ladderlm.errors import CheckpointError, ConfigError
from ladderlm.files import publish_text, to_json
from ladderlm.optim.schedule import count_stable_steps
from ladderlm.run.directory import RunDirectory
from ladderlm.training.run_config import RunConfig

__all__ = ["check_trunk", "take_over"]

# Options that cannot change a number before the cooldown begins; warmup_steps replaces
# warmup_fraction.
_MAY_DIFFER = set(
    "train.n_steps optim.decay_fraction optim.final_lr_fraction optim.warmup_fraction".split()
)
_log = logging.getLogger(__name__)


def check_trunk(config: RunConfig) -> None:
    """Raise ConfigError if the run in `execution.start_from` shares no steps with this one."""
    trunk = RunDirectory(config.execution.start_from or "")
    if config.execution.start_from is not None and trunk.config_file.is_file():
        _count_shared_steps(config, trunk.config())


def _count_shared_steps(config: RunConfig, trunk: RunConfig) -> int:
    """Return the number of first updates that two runs have in common.

    Raises:
        ConfigError: the run's rate or batch is not constant, its warm-up is not absolute, or the
            runs differ in more than length, cooldown, validation and checkpoints.
    """
    name = config.execution.start_from
    for what, found, wanted in (
        ("optim.schedule", config.optim.schedule, "wsd"),
        ("train.first_batch_tokens", config.train.first_batch_tokens, None),
    ):
        if found != wanted:
            raise ConfigError(
                f"execution.start_from = {name!r} needs a constant rate and batch, got {what} = "
                f"{found!r}",
                fix=f"set {what} to {wanted!r}, or leave execution.start_from out",
            )
    if config.optim.warmup_steps is None:
        raise ConfigError(
            f"execution.start_from = {name!r} without optim.warmup_steps",
            "a warm-up that is a fraction of the run is longer in a longer run",
            "set optim.warmup_steps in both runs",
        )
    changed = [
        line
        for line in differences(meaning_of(trunk), meaning_of(config))
        if (option := line.split(":", 1)[0]) not in _MAY_DIFFER and not option.startswith("eval.")
    ]
    if changed:
        raise ConfigError(
            f"the run in execution.start_from = {name!r} differs in {'; '.join(changed[:6])}",
            "its first steps are not those of this run",
            "name a longer run of the same config, or leave execution.start_from out",
        )
    return min(count_stable_steps(c.optim, c.train.n_steps) for c in (config, trunk))


def take_over(
    config: RunConfig, directory: RunDirectory, processes: Processes
) -> SavedState | None:
    """Return the newest state of `execution.start_from` that this run shares, as its own.

    The trunk's log of training up to there becomes the beginning of this run's. Validations of the
    shared part stay in the trunk's folder.

    Returns:
        None, after a warning, if there is no such state: the run then starts from its first step.

    Raises:
        ConfigError: see `_count_shared_steps`.
    """
    trunk = RunDirectory(config.execution.start_from or "")
    saved, why = None, "there is no such run"
    if trunk.config_file.is_file():
        shared = _count_shared_steps(config, trunk.config())
        saved, why = _newest(trunk, shared, trunk.config().run_id)
    if saved is None:
        _log.warning("%s: %s; the run starts from its first step", trunk.path, why)
        return None
    step = saved.checkpoint.step
    if processes.first:
        rows = [row for row in trunk.metrics("train") if row["step"] <= step]
        publish_text(directory.metrics_file, "".join(to_json(r, None) + "\n" for r in rows))
    processes.wait()
    _log.info("taking over the first %d steps from %s", step, trunk.path)
    return replace(saved, state=_as_own(saved.state, config.run_id))


def _newest(trunk: RunDirectory, shared: int, run_id: str) -> tuple[SavedState | None, str]:
    """Return the newest undamaged state of at most `shared` steps, or why there is none."""
    why = f"no checkpoint of its first {shared} steps is left"
    for checkpoint in reversed(list_checkpoints(trunk.checkpoints)):
        if checkpoint.step <= shared:
            try:
                saved = load_state(checkpoint)
            except CheckpointError as error:
                why = f"a damaged checkpoint: {error.what}"
                continue
            if saved.state.get("run_id") == run_id:
                return saved, ""
            why = f"{checkpoint.folder.name} belongs to run {saved.state.get('run_id')}"
    return None, why


def _as_own(state: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Return the state of another run as one of this run; it does not count as a restart."""
    return state | {
        "run_id": run_id,
        "best": {},
        "timing": state["timing"] | {"restarts": -1},
        "branched_from": {"trunk": state["run_id"], "step": state["step"]},
    }
