"""One planned run, from its place in the ladder to its whole config.

Owns the shapes of a study's rungs and the making of resolved `RunConfig`s. Which runs a study needs
is in `plan.py`. Builds no model.
"""

import functools
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ladderlm.data.shards import open_data
from ladderlm.errors import ConfigError
from ladderlm.model.accounting import count_params, train_flops_per_token
from ladderlm.model.config import ModelConfig
from ladderlm.optim.schedule import count_stable_steps, count_warmup_steps
from ladderlm.run.directory import RunDirectory
from ladderlm.run.resolve import open_splits, resolve
from ladderlm.study.ladder import Rung, Target, choose_shape, nearest_shape, plan_rung
from ladderlm.study.spec import Arm, StudySpec
from ladderlm.training.run_config import RunConfig

__all__ = ["PlannedRun", "Planner", "Role"]

Role = Literal["ladder", "bracket", "noise", "isoflop", "search"]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: where it stands in the ladder, and its whole config.

    Args:
        role: ladder runs are compared; bracket runs find a learning rate, noise runs the spread
            of seeds, isoflop runs the best size at equal compute, search runs the best options.
        provisional: its learning rate is not chosen yet. It is shown and counted, never started.
        trunk: run at whose checkpoint it begins; None: it makes all its steps.
        shared_steps: those that it has from there.
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
        """Training FLOPs of the steps that no trunk makes for it."""
        return self.rung.flops * (1 - self.shared_steps / self.rung.n_steps)


class Planner:
    """Makes runs of one study.

    Args:
        pool: folder of the runs, `STUDY/runs` or a shared one.
        given_up: failed runs that will not be tried again; None: all that failed.

    Raises:
        DataError: the data is not there.
    """

    def __init__(
        self, spec: StudySpec, pool: Path, given_up: Collection[str] | None = None
    ) -> None:
        self.spec, self.pool, self._given_up = spec, pool, given_up
        data, train, _ = open_splits(spec.base)
        self.unique_tokens = train.n_tokens
        self._configs: dict[str, RunConfig] = {}  # of arms, by their options
        self._base = replace(spec.base.model, vocab_size=data.vocab_size)
        models = [spec.arm_config(arm).model for arm in spec.arms]
        self._vocabularies = _vocabularies(spec)
        self._group = math.lcm(*(model.n_heads // model.kv_heads for model in models))

    def shape(self, index: int) -> ModelConfig:
        """Return the baseline's shape of a rung.

        Raises:
            ConfigError: no shape meets the budget.
        """
        ladder = self.spec.ladder
        target = Target(ladder.tokens_per_param, ladder.tokens)
        return choose_shape(ladder.flops[index], target, *self._grid())

    def _grid(self) -> tuple[ModelConfig, int, float, int, int]:
        return (
            self._base,
            self.spec.base.data.seq_len,
            self.spec.ladder.aspect_ratio,
            self._group,
            self.spec.ladder.min_layers,
        )

    def isoflop_shapes(self, index: int) -> list[ModelConfig]:
        """Return the other sizes of a rung: as many as the grid of shapes has, by rising size.

        N is wanted in steps of sqrt(2) around the rung's own, so tokens per parameter in steps of
        one half.
        """
        n = self.spec.ladder.isoflop_sizes
        own = self.shape(index)
        budget = self.spec.ladder.flops[index]
        per_param = budget / train_flops_per_token(own, self.spec.base.data.seq_len)
        per_param /= count_params(own).n_matmul
        wanted = [Target(per_param * 2.0 ** ((n - 1) / 2 - i)) for i in range(n)]
        found = [nearest_shape(budget, target, *self._grid())[0] for target in wanted]
        return [shape for shape in dict.fromkeys(found) if shape != own]

    def run(
        self,
        arm: Arm,
        index: int,
        seed: int,
        learning_rate: float | None = None,
        role: Role = "ladder",
        provisional: bool = False,
        shape: ModelConfig | None = None,
        branch: float = 1.0,
    ) -> PlannedRun:
        """Make the run of an arm on a rung.

        Args:
            learning_rate: None: as the base or the arm has it.
            shape: None: the rung's own.
            branch: length over that of the rung.
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
        ladder, batch = self.spec.ladder, config.train.global_batch_tokens
        given = (index, ladder.flops[index], model, batch, config.data.seq_len, ladder.min_updates)
        shortest = plan_rung(*given, ladder.branches[0], ladder.branches[0])
        rung = plan_rung(*given, branch, ladder.branches[0])
        optim = config.optim
        if learning_rate is not None:
            optim = replace(optim, learning_rate=learning_rate)
        if len(ladder.branches) > 1 and optim.warmup_steps is None:
            n_warmup = count_warmup_steps(optim, shortest.n_steps)
            optim = replace(optim, warmup_steps=n_warmup)
        config = replace(
            config,
            model=model,
            optim=optim,
            train=replace(
                config.train,
                n_steps=rung.n_steps,
                global_batch_tokens=rung.global_batch_tokens,
                seed=seed,
            ),
            data=replace(config.data, order_seed=seed),
            execution=replace(config.execution, n_threads=config.execution.n_threads or 1),
            out=None,
        )
        config = _resolved(config, _data_state(config))
        out = os.path.relpath(self.pool / config.run_id)
        return PlannedRun(arm.name, rung, seed, replace(config, out=out), role, provisional)

    def runs_of_size(
        self,
        arm: Arm,
        index: int,
        seed: int,
        learning_rate: float | None = None,
        provisional: bool = False,
    ) -> list[PlannedRun]:
        """Make the ladder's runs of one size, shortest first: the last is the others' trunk.

        Arguments as in `run`.
        """
        *short, trunk = (
            self.run(arm, index, seed, learning_rate, "ladder", provisional, None, branch)
            for branch in self.spec.ladder.branches
        )
        if not short:
            return [trunk]
        made = []
        for run in short:
            config = run.config
            execution = replace(config.execution, start_from=trunk.config.out)
            shared = count_stable_steps(config.optim, config.train.n_steps)
            config = replace(config, execution=execution)
            made.append(replace(run, config=config, trunk=trunk.run_id, shared_steps=shared))
        keep = tuple(sorted({run.shared_steps for run in made}))
        config = trunk.config
        config = replace(config, checkpoint=replace(config.checkpoint, keep_steps=keep))
        return [*made, replace(trunk, config=config)]

    def losses_of(self, runs: Sequence[PlannedRun]) -> list[float] | None:
        """Return the final bits per byte, infinite for a failed run; None if one has not ended."""
        losses = []
        for run in runs:
            directory = RunDirectory(self.pool / run.run_id)
            status = (directory.summary() or {}).get("status")
            lost = status == "failed" and (self._given_up is None or run.run_id in self._given_up)
            if status != "finished" and not lost:
                return None
            scores = directory.scores(run.config.eval.split) or {}
            found = scores.get("bits_per_byte")
            if not isinstance(found, int | float) or not 0 < found < math.inf:
                found = math.inf
            losses.append(float(found))
        return losses


def _vocabularies(spec: StudySpec) -> dict[str, int]:
    """Return the vocabulary of every arm's data.

    An arm with another one keeps the rung's body; its head, and so its tokens, differ.

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
                "prepare both from the same validation file",
            )
    return found


def _data_state(config: RunConfig) -> tuple[tuple[int, ...], ...]:
    """Return what changes when the data of a config is prepared again."""
    folders = [Path(folder) for folder in (config.data.path, config.eval.path) if folder]
    states = [(folder / "manifest.json").stat() for folder in folders]
    return tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in states)


@functools.lru_cache(maxsize=4096)  # a plan is made again whenever a run ends, of nearly equal runs
def _resolved(config: RunConfig, _state: tuple[tuple[int, ...], ...]) -> RunConfig:
    return resolve(config)
