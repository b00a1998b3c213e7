"""One planned run, from its place in the ladder to its whole config.

Owns the shapes of a study's rungs and the resolved `RunConfig`s. The runs that a study needs are
chosen in `plan.py`. Builds no model.
"""

import functools
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from ladderlm.data.shards import open_data
from ladderlm.errors import ConfigError
from ladderlm.model.accounting import count_params, train_flops_per_token
from ladderlm.model.config import ModelConfig
from ladderlm.optim.schedule import count_stable_steps, count_warmup_steps
from ladderlm.run.directory import RunDirectory
from ladderlm.run.resolve import open_splits, resolve
from ladderlm.study.ladder import (
    Rung,
    ShapeGrid,
    Target,
    batch_tokens,
    choose_shape,
    nearest_shape,
    plan_rung,
)
from ladderlm.study.spec import Arm, StudySpec
from ladderlm.training.run_config import RunConfig

__all__ = ["PRESET_RATE", "PlannedRate", "PlannedRun", "Planner", "Role"]

Role = Literal["ladder", "bracket", "noise", "isoflop", "search"]


class PlannedRate(NamedTuple):
    """The learning rate of a planned run.

    Args:
        value: None for that of the base or the arm.
        provisional: a search may still change it, or the run's other options.
    """

    value: float | None = None
    provisional: bool = False


PRESET_RATE = PlannedRate()


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its place in the ladder, and its whole config.

    Args:
        role: ladder runs are compared; bracket runs find a learning rate, noise runs the spread
            of seeds, isoflop runs the best size at equal compute, search runs the best options.
        provisional: a search has not chosen its config yet. It is counted, but not started.
        trunk: run from whose checkpoint it starts; None if it trains all its steps.
        shared_steps: steps before that checkpoint.
    """

    arm: str
    rung: Rung
    seed: int
    config: RunConfig
    role: Role = "ladder"
    provisional: bool = False
    trunk: str | None = None
    shared_steps: int = 0

    @property
    def run_id(self) -> str:
        """Name of the run in the pool."""
        return self.config.run_id

    @property
    def flops_to_spend(self) -> float:
        """Training FLOPs of its own steps, without those of its trunk."""
        return self.rung.flops * (1 - self.shared_steps / self.rung.n_steps)


class Planner:
    """The maker of a study's planned runs.

    Args:
        pool: folder of the runs.
        given_up: failed runs that will not be tried again; None: all that failed.

    Raises:
        DataError: the data is missing.
    """

    def __init__(
        self, spec: StudySpec, pool: Path, given_up: Collection[str] | None = None
    ) -> None:
        self.spec, self.pool, self._given_up = spec, pool, given_up
        data, train, _ = open_splits(spec.base)
        self.unique_tokens = train.n_tokens
        self._configs: dict[str, RunConfig] = {}  # of arms, by their options
        models = [spec.arm_config(arm).model for arm in spec.arms]
        self._vocabularies = _vocabularies(spec)
        self._grid = ShapeGrid(
            replace(spec.base.model, vocab_size=data.vocab_size),
            spec.base.data.seq_len,
            spec.ladder.aspect_ratio,
            math.lcm(*(model.n_heads // model.kv_heads for model in models)),
            spec.ladder.min_layers,
        )

    def shape(self, index: int) -> ModelConfig:
        """Return the baseline's shape of a rung.

        Raises:
            ConfigError: no shape meets the budget.
        """
        ladder = self.spec.ladder
        target = Target(ladder.tokens_per_param, ladder.tokens)
        return choose_shape(ladder.flops[index], target, self._grid)

    def isoflop_shapes(self, index: int) -> list[ModelConfig]:
        """Return the other sizes of a rung, rising, as far as the grid of shapes has them.

        N changes in steps of sqrt(2) around the rung's own, so tokens per parameter in steps of 2.
        """
        n, budget = self.spec.ladder.isoflop_sizes, self.spec.ladder.flops[index]
        own = self.shape(index)
        per_param = budget / train_flops_per_token(own, self._grid.seq_len)
        per_param /= count_params(own).n_matmul
        wanted = [Target(per_param * 2.0 ** ((n - 1) / 2 - i)) for i in range(n)]
        found = [nearest_shape(budget, target, self._grid)[0] for target in wanted]
        return [shape for shape in dict.fromkeys(found) if shape != own]

    def run(
        self,
        arm: Arm,
        index: int,
        seed: int,
        rate: PlannedRate = PRESET_RATE,
        role: Role = "ladder",
        shape: ModelConfig | None = None,
        branch: float = 1.0,
    ) -> PlannedRun:
        """Return the run of an arm on a rung.

        Args:
            shape: None for the rung's own.
            branch: length relative to the rung's.
        """
        if repr(arm.set) not in self._configs:
            self._configs[repr(arm.set)] = self.spec.arm_config(arm)
        config, shape = self._configs[repr(arm.set)], shape or self.shape(index)
        size = {name: getattr(shape, name) for name in ("dim", "n_layers", "n_heads")}
        size["vocab_size"] = self._vocabularies[arm.name]
        if config.model.n_kv_heads is not None:
            group = config.model.n_heads // config.model.n_kv_heads
            size["n_kv_heads"] = size["n_heads"] // group
        model = replace(config.model, **size)
        ladder, seq_len = self.spec.ladder, config.data.seq_len
        budget, shortest = ladder.flops[index], ladder.branches[0]
        # All lengths of a size have the batch that leaves the shortest one enough updates.
        n_tokens = budget * shortest / train_flops_per_token(model, seq_len)
        base_batch = config.train.global_batch_tokens
        batch = batch_tokens(n_tokens, base_batch, seq_len, ladder.min_updates)
        rung = plan_rung(index, budget, model, batch, seq_len, branch)
        optim = config.optim
        if rate.value is not None:
            optim = replace(optim, learning_rate=rate.value)
        if len(ladder.branches) > 1 and optim.warmup_steps is None:
            n_shortest = plan_rung(index, budget, model, batch, seq_len, shortest).n_steps
            optim = replace(optim, warmup_steps=count_warmup_steps(optim, n_shortest))
        config = replace(
            config,
            model=model,
            optim=optim,
            train=replace(config.train, n_steps=rung.n_steps, global_batch_tokens=batch, seed=seed),
            data=replace(config.data, order_seed=seed),
            execution=replace(config.execution, n_threads=config.execution.n_threads or 1),
            out=None,
        )
        config = _resolved(config, _data_state(config))
        out = os.path.relpath(self.pool / config.run_id)
        return PlannedRun(arm.name, rung, seed, replace(config, out=out), role, rate.provisional)

    def runs_of_size(
        self, arm: Arm, index: int, seed: int, rate: PlannedRate = PRESET_RATE
    ) -> list[PlannedRun]:
        """Return the ladder's runs of one size, shortest first; the last is the others' trunk."""
        *short, trunk = (
            self.run(arm, index, seed, rate, branch=branch) for branch in self.spec.ladder.branches
        )
        if not short:
            return [trunk]
        branches = []
        for run in short:
            config = run.config
            execution = replace(config.execution, start_from=trunk.config.out)
            shared = count_stable_steps(config.optim, config.train.n_steps)
            config = replace(config, execution=execution)
            branches.append(replace(run, config=config, trunk=trunk.run_id, shared_steps=shared))
        keep = tuple(sorted({run.shared_steps for run in branches}))
        checkpoint = replace(trunk.config.checkpoint, keep_steps=keep)
        return [*branches, replace(trunk, config=replace(trunk.config, checkpoint=checkpoint))]

    def losses_of(self, runs: Sequence[PlannedRun]) -> list[float] | None:
        """Return the final bits per byte, infinite for a failed run; None if one has not ended."""
        losses = []
        for run in runs:
            directory = RunDirectory(self.pool / run.run_id)
            status = (directory.summary() or {}).get("status")
            lost = status == "failed" and (self._given_up is None or run.run_id in self._given_up)
            if status != "finished" and not lost:
                return None
            bits = (directory.scores(run.config.eval.split) or {}).get("bits_per_byte")
            losses.append(float(bits) if isinstance(bits, int | float) and bits > 0 else math.inf)
        return losses


def _vocabularies(spec: StudySpec) -> dict[str, int]:
    """Return the vocabulary sizes of the arms' data.

    An arm with its own data keeps the layers of the rung; its head, and so its tokens, differ.

    Raises:
        ConfigError: an arm that would be scored on other texts than the baseline.
    """
    found, scored = {}, {}
    for arm in spec.arms:
        config = spec.arm_config(arm)
        data, _, _ = open_splits(config)
        eval_data = open_data(config.eval.path) if config.eval.path else data
        found[arm.name] = data.vocab_size
        hashes = eval_data.manifest["splits"][config.eval.split]["text_hashes"]
        scored[arm.name] = hashes["exact"]["sha256"]
        if scored[arm.name] != scored[spec.arms[0].name]:
            raise ConfigError(
                f"arm {arm.name!r} would be scored on other texts than {spec.arms[0].name!r}",
                "bits per byte of different texts cannot be compared",
                "prepare the data of both from the same validation file",
            )
    return found


def _data_state(config: RunConfig) -> tuple[tuple[int, ...], ...]:
    """Return a value that changes when the data of a config is prepared again."""
    folders = [Path(folder) for folder in (config.data.path, config.eval.path) if folder]
    states = [(folder / "manifest.json").stat() for folder in folders]
    return tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in states)


@functools.lru_cache(maxsize=4096)  # most runs are the same when a study is planned again
def _resolved(config: RunConfig, _state: tuple[tuple[int, ...], ...]) -> RunConfig:
    return resolve(config)
