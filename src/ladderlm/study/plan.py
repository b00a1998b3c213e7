"""All runs of a study, before any of them is made.

Owns the way from a `StudySpec` to resolved `RunConfig`s, and the warnings that a reader of the
result would want to have had. Builds no model.
"""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ladderlm.config import differences, meaning_of
from ladderlm.data.shards import open_data
from ladderlm.errors import ConfigError
from ladderlm.run.config import RunConfig
from ladderlm.run.resolve import open_splits, resolve
from ladderlm.study.ladder import Rung, choose_shape, plan_rung
from ladderlm.study.spec import Arm, StudySpec

__all__ = ["PlannedRun", "StudyPlan", "plan_study"]

FEW_UPDATES = 500  # SCALING: 500 to 1,000 at least
# What meets the budget, and what is sized by it, may differ between arms without being said.
_FOLLOWS = {
    *("train.n_steps", "eval.head_tokens", "eval.n_evals", "checkpoint.every_steps"),
}


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: where it stands in the ladder, and its whole config."""

    arm: str
    rung: Rung
    seed: int
    config: RunConfig

    @property
    def run_id(self) -> str:
        """Name of the run in the pool."""
        return self.config.run_id


@dataclass(frozen=True)
class StudyPlan:
    """Runs in the order in which they should start, and what to warn about."""

    spec: StudySpec
    runs: tuple[PlannedRun, ...]
    warnings: tuple[str, ...]

    def differences(self, arm: str) -> list[str]:
        """List the options in which an arm's resolved config differs from the baseline's.

        At the highest rung where both have runs, with equal seeds; "option: baseline -> arm".
        """
        base = {(r.rung.index, r.seed): r for r in self.runs if r.arm == self.spec.arms[0].name}
        own = [r for r in self.runs if r.arm == arm and (r.rung.index, r.seed) in base]
        if not own:
            return []
        run = max(own, key=lambda run: run.rung.index)
        other = base[run.rung.index, run.seed].config
        return differences(meaning_of(other), meaning_of(run.config))

    @property
    def flops(self) -> float:
        """Training FLOPs of all runs."""
        return sum(run.rung.flops for run in self.runs)


def plan_study(spec: StudySpec, pool: Path) -> StudyPlan:
    """Plan every run: rungs x arms x seeds, largest rung last, arms of a pair side by side.

    Args:
        pool: folder of the runs, `STUDY/runs` or a shared one.

    Raises:
        ConfigError, DataError: a rung cannot be met, or the data is not there.
    """
    ladder = spec.ladder
    data, train, _ = open_splits(spec.base)
    base = replace(spec.base.model, vocab_size=data.vocab_size)
    seq_len = spec.base.data.seq_len
    models = [spec.arm_config(arm).model for arm in spec.arms]
    group = math.lcm(*(model.n_heads // model.kv_heads for model in models))
    vocabularies = _vocabularies(spec)
    runs = []
    for index, budget in enumerate(ladder.flops):
        shape = choose_shape(
            budget, ladder.tokens_per_param, base, seq_len, ladder.aspect_ratio, group
        )
        for seed in ladder.seeds_of(index):
            for arm in spec.arms:
                own = replace(shape, vocab_size=vocabularies[arm.name])
                runs.append(_plan_run(spec, arm, index, budget, own, seed, pool))
    _refuse_equal_arms(runs)
    plan = StudyPlan(spec, tuple(runs), ())
    return replace(plan, warnings=tuple(_warnings(plan, train.n_tokens)))


def _vocabularies(spec: StudySpec) -> dict[str, int]:
    """Give the vocabulary of every arm's data.

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


def _refuse_equal_arms(runs: list[PlannedRun]) -> None:
    owner: dict[str, str] = {}
    for run in runs:
        arm = owner.setdefault(run.run_id, run.arm)
        if arm != run.arm:
            raise ConfigError(
                f"arms {arm!r} and {run.arm!r} come to the same run, {run.run_id}",
                "equal configs with equal seeds are one run, which cannot be compared with itself",
                "let an arm change something that counts, or give it other seeds",
            )


def _plan_run(
    spec: StudySpec, arm: Arm, index: int, budget: float, shape: object, seed: int, pool: Path
) -> PlannedRun:
    config = spec.arm_config(arm)
    size = {name: getattr(shape, name) for name in ("dim", "n_layers", "n_heads", "vocab_size")}
    if config.model.n_kv_heads is not None:
        group = config.model.n_heads // config.model.n_kv_heads
        size["n_kv_heads"] = size["n_heads"] // group
    model = replace(config.model, **size)
    rung = plan_rung(
        index,
        budget,
        model,
        config.train.global_batch_tokens,
        config.data.seq_len,
        spec.ladder.min_updates,
    )
    train = replace(
        config.train,
        n_steps=rung.n_steps,
        global_batch_tokens=rung.global_batch_tokens,
        seed=seed,
    )
    config = replace(
        config, model=model, train=train, data=replace(config.data, order_seed=seed), out=None
    )
    threads = config.execution.n_threads or 1
    execution = replace(config.execution, n_threads=threads)
    config = resolve(replace(config, execution=execution))
    out = os.path.relpath(pool / config.run_id)
    return PlannedRun(arm.name, rung, seed, replace(config, out=out))


def _warnings(plan: StudyPlan, unique_tokens: int) -> list[str]:
    spec, runs = plan.spec, plan.runs
    flops = spec.ladder.flops
    found = []
    if flops[-1] / flops[0] < 9.99:
        found.append(
            f"the ladder spans {flops[-1] / flops[0]:.1f}x of compute: less than a decade says "
            "little about scaling"
        )
    few = [run for run in runs if run.rung.n_steps < FEW_UPDATES]
    if few:
        fewest = min(run.rung.n_steps for run in few)
        found.append(f"{len(few)} runs have fewer than {FEW_UPDATES} updates, down to {fewest}")
    longest = max(run.rung.n_tokens for run in runs)
    if longest > unique_tokens:
        found.append(f"the longest run repeats its data {longest / unique_tokens:.1f} times")
    batches = {run.rung.global_batch_tokens for run in runs}
    if len(batches) > 1:
        found.append(
            f"the batch changes with the rung ({min(batches):,} to {max(batches):,} tokens): batch "
            "and size are confounded to that extent"
        )
    for arm in spec.arms[1:]:
        changed = {line.split(":", 1)[0] for line in plan.differences(arm.name)}
        unsaid = sorted(changed - set(arm.set) - set(arm.tune) - _FOLLOWS)
        if unsaid:
            found.append(f"arm {arm.name} differs in more than it says: {', '.join(unsaid)}")
    if not all(arm.tune for arm in spec.arms):
        found.append("learning rates are not tuned per arm: the verdict will be INCONCLUSIVE")
    return found
