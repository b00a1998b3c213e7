"""The first part of a run, taken over from a longer one.

A WSD run has a constant rate until its cooldown begins, so with an absolute warm-up the first steps
of a short run are those of every longer one with the same seeds, bit for bit (on one kind of CPU,
with equal execution). Owns the check that this is so, and the choice of the checkpoint. Source of
the idea: Hägele et al. 2024 (2405.18392), section 3.
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

# What cannot change a number before the cooldown begins.
_MAY_DIFFER = {
    *("train.n_steps", "optim.decay_fraction", "optim.final_lr_fraction"),
    "optim.warmup_fraction",  # warmup_steps stands in for it
}
_log = logging.getLogger(__name__)


def check_trunk(config: RunConfig) -> None:
    """Refuse a run in `execution.start_from` that shares no steps with this one.

    Raises:
        ConfigError: see `_count_shared_steps`.
    """
    trunk = RunDirectory(config.execution.start_from or "")
    if config.execution.start_from is not None and trunk.config_file.is_file():
        _count_shared_steps(config, trunk.config())


def _count_shared_steps(config: RunConfig, trunk: RunConfig) -> int:
    """Count the updates that two runs have in common, if they differ in length alone.

    Validation, checkpoints and what the cooldown is like may differ as well.

    Raises:
        ConfigError: one of them has no constant rate and absolute warm-up, or they differ in more.
    """
    name = config.execution.start_from
    for what, found, wanted in (
        ("optim.schedule", config.optim.schedule, "wsd"),
        ("train.first_batch_tokens", config.train.first_batch_tokens, None),
    ):
        if found != wanted:
            raise ConfigError(
                f"execution.start_from = {name!r} with {what} = {found!r}",
                "only a run whose rate and batch are constant shares steps with a longer one",
                f"set {what} to {wanted!r}, or leave execution.start_from out",
            )
    if config.optim.warmup_steps is None:
        raise ConfigError(
            f"execution.start_from = {name!r} without optim.warmup_steps",
            "a warm-up that is a share of the run is longer in a longer one",
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
            "name a run of the same config that is longer, or leave execution.start_from out",
        )
    return min(count_stable_steps(c.optim, c.train.n_steps) for c in (config, trunk))


def take_over(
    config: RunConfig, directory: RunDirectory, processes: Processes
) -> SavedState | None:
    """Give the newest good state of `execution.start_from` that this run shares, as its own.

    The trunk's log of training up to there becomes the beginning of this run's. Validations of the
    shared part stay in the trunk's folder alone.

    Returns:
        None, and one line in the log, where there is nothing to take over: the run is then made
        from its first step.

    Raises:
        ConfigError: the two runs do not fit; see `_count_shared_steps`.
    """
    trunk = RunDirectory(config.execution.start_from or "")
    saved, why = None, "there is no such run"
    if trunk.config_file.is_file():
        shared = _count_shared_steps(config, trunk.config())
        saved, why = _newest(trunk, shared, trunk.config().run_id)
    if saved is None:
        _log.warning("%s: %s; the run is made from its first step", trunk.path, why)
        return None
    step = saved.checkpoint.step
    if processes.first:
        rows = [row for row in trunk.metrics("train") if row["step"] <= step]
        publish_text(directory.metrics_file, "".join(to_json(r, None) + "\n" for r in rows))
    processes.wait()
    _log.info("taking over the first %d steps from %s", step, trunk.path)
    return replace(saved, state=_as_own(saved.state, config.run_id))


def _newest(trunk: RunDirectory, shared: int, run_id: str) -> tuple[SavedState | None, str]:
    """Give the newest good state of at most so many steps, or why there is none."""
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
    """Make the state of another run one of this; taking it over is no restart."""
    branched = {"trunk": state["run_id"], "step": state["step"]}
    timing = state["timing"] | {"restarts": -1}
    return state | {
        "run_id": run_id,
        "best": {},
        "timing": timing,
        "branched_from": branched,
    }
