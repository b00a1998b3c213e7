"""All runs of a study, before any of them starts.

Owns the choice of runs for a `StudySpec`, and the warnings that a reader of its results needs. A
single run is planned in `planner.py`.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from ladderlm.config import differences, meaning_of
from ladderlm.errors import ConfigError
from ladderlm.study.brackets import tune_arm
from ladderlm.study.planner import PRESET_RATE, PlannedRate, PlannedRun, Planner
from ladderlm.study.records import NotebookTable
from ladderlm.study.search import SearchResult, plan_search
from ladderlm.study.spec import Arm, StudySpec
from ladderlm.study.tuning import Tuning
from ladderlm.units import format_flops

__all__ = ["StudyPlan", "plan_study"]

FEW_UPDATES = 500  # SCALING: 500 to 1,000 at least
# Options that meet the budget or follow from it may differ between arms without being named.
_FOLLOWS = {
    *("train.n_steps", "eval.head_tokens", "eval.n_evals", "checkpoint.every_steps"),
    "optim.warmup_steps",  # of branches, by the shortest one's length
}
# Options that follow from another data.path, which itself is not hashed.
_FOLLOWS_DATA = {"data.fingerprint", "data.tokenizer_fingerprint", "eval.fingerprint"}
_FOLLOWS_DATA |= {"model.vocab_size"}


@dataclass(frozen=True, repr=False)
class StudyPlan(NotebookTable):
    """Runs in the order in which they should start, and warnings.

    Args:
        tunings: of the arms whose rates are searched for.
        found: result of the study's search, if it has one.
    """

    shown_columns = ("run_id", "arm", "role", "index", "branch", "seed", "n_steps", "flops")

    spec: StudySpec
    runs: tuple[PlannedRun, ...]
    warnings: tuple[str, ...]
    tunings: tuple[Tuning, ...] = ()
    found: SearchResult | None = None

    def __repr__(self) -> str:
        """Return its totals and its warnings."""
        head = f"Plan of {self.spec.name}: {len(self.runs)} runs, {format_flops(self.flops)}"
        return "\n".join([head, *(f"  warning: {warning}" for warning in self.warnings)])

    def table_rows(self) -> list[dict[str, object]]:
        """Return the runs, with the numbers of their rungs."""
        return [
            {"run_id": run.run_id, "arm": run.arm, "role": run.role, "seed": run.seed}
            | {"dim": run.rung.model.dim, "n_layers": run.rung.model.n_layers}
            | {k: v for k, v in vars(run.rung).items() if k != "model"}
            for run in self.runs
        ]

    @property
    def ladder(self) -> tuple[PlannedRun, ...]:
        """The runs that are compared."""
        return tuple(run for run in self.runs if run.role == "ladder")

    @property
    def settled(self) -> tuple[PlannedRun, ...]:
        """The runs that can be made now: all but the provisional ones."""
        return tuple(run for run in self.runs if not run.provisional)

    def differences(self, arm: str) -> list[str]:
        """List the options in which an arm differs from the baseline, as "option: a -> b".

        The resolved configs of the highest rung where both have runs of one seed are compared.
        """

        def place(run: PlannedRun) -> tuple[int, float, int]:
            return run.rung.index, run.rung.branch, run.seed

        base = {place(r): r for r in self.ladder if r.arm == self.spec.arms[0].name}
        own = [r for r in self.ladder if r.arm == arm and place(r) in base]
        if not own:
            return []
        run = max(own, key=lambda run: run.rung.index)
        other = base[place(run)].config
        return differences(meaning_of(other), meaning_of(run.config))

    @property
    def flops(self) -> float:
        """Training FLOPs of all runs; steps that branches share with a trunk count once."""
        return sum(run.flops_to_spend for run in self.runs)

    @property
    def flops_alone(self) -> float:
        """Training FLOPs of all runs if each trained all its steps."""
        return sum(run.rung.flops for run in self.runs)


def plan_study(spec: StudySpec, pool: Path, given_up: Collection[str] | None = None) -> StudyPlan:
    """Plan every run: rungs x arms x seeds, largest rung last, arms of a pair side by side.

    The noise runs and the searches of learning rates come first. Until the runs of a search have
    ended, the runs that depend on its result are provisional, and a later plan settles them.

    Args:
        pool: folder of the runs.
        given_up: failed runs that will not be tried again, so that a search may continue without
            them; None: all that failed.

    Raises:
        ConfigError, DataError: a rung cannot be met, or the data is missing.
    """
    ladder, planner = spec.ladder, Planner(spec, pool, given_up)
    baseline = spec.arms[0]
    noise = [planner.run(baseline, 0, seed, role="noise") for seed in ladder.noise_seed_list]
    searched = {arm.name: tune_arm(planner, arm) for arm in spec.arms if arm.tune}
    tunings = {name: tuning for name, (_, tuning) in searched.items()}

    def rate_at(arm: Arm, index: int) -> PlannedRate:
        tuning = tunings.get(arm.name)
        if tuning is None:
            return PRESET_RATE
        value = None if tuning.law is None else tuning.law.rate(ladder.flops[index])
        return PlannedRate(value, not tuning.done)

    runs = []
    for index in range(len(ladder.flops)):
        for seed in ladder.seeds_of(index):
            sizes = [
                planner.runs_of_size(arm, index, seed, rate_at(arm, index)) for arm in spec.arms
            ]
            runs += [run for pair in zip(*sizes, strict=True) for run in pair]
    _refuse_equal_arms(runs)
    bowls = [
        planner.run(baseline, i, ladder.seeds[0], rate_at(baseline, i), "isoflop", shape)
        for i in range(min(ladder.isoflop_rungs, len(ladder.flops)))
        if ladder.isoflop_sizes
        for shape in planner.isoflop_shapes(i)
    ]
    tried, found = plan_search(planner, spec.search) if spec.search else ([], None)
    brackets = [run for own, _ in searched.values() for run in own]
    every = (*noise, *brackets, *tried, *bowls, *runs)
    plan = StudyPlan(spec, every, (), tuple(tunings.values()), found)
    return replace(plan, warnings=tuple(_warnings(plan, planner.unique_tokens)))


def _refuse_equal_arms(runs: list[PlannedRun]) -> None:
    owner: dict[str, str] = {}
    for run in runs:
        arm = owner.setdefault(run.run_id, run.arm)
        if arm != run.arm:
            raise ConfigError(
                f"arms {arm!r} and {run.arm!r} come to the same run, {run.run_id}",
                "a run cannot be compared with itself",
                "change an option in one of the arms",
            )


def _warnings(plan: StudyPlan, unique_tokens: int) -> list[str]:
    spec, runs = plan.spec, plan.ladder
    flops = spec.ladder.flops
    found = []
    if flops[-1] / flops[0] < 9.99:
        found.append(
            f"the ladder spans {flops[-1] / flops[0]:.1f}x of compute: less than a decade says "
            "little about scaling"
        )
    if few := [run.rung.n_steps for run in runs if run.rung.n_steps < FEW_UPDATES]:
        found.append(f"{len(few)} runs have fewer than {FEW_UPDATES} updates, down to {min(few)}")
    longest = max(run.rung.n_tokens for run in runs)
    if longest > unique_tokens:
        found.append(f"the longest run repeats its data {longest / unique_tokens:.1f} times")
    batches = {run.rung.global_batch_tokens for run in runs}
    if len(batches) > 1:
        found.append(
            f"the batch changes with the rung ({min(batches):,} to {max(batches):,} tokens): batch "
            "and size are confounded to that extent"
        )
    layers = sorted({run.rung.model.n_layers for run in runs})
    if layers[0] == 1 < layers[-1] and any(arm.tune for arm in spec.arms):
        found.append(
            f"the lowest rungs have one layer and the highest {layers[-1]}: rates found at one "
            "layer may not carry; ladder.min_layers = 2 avoids it"
        )
    baseline = spec.arms[0]
    for arm in spec.arms[1:]:
        changed = {line.split(":", 1)[0] for line in plan.differences(arm.name)}
        named = {*baseline.set, *baseline.tune, *arm.set, *arm.tune}
        follows = _FOLLOWS | (_FOLLOWS_DATA if "data.path" in named else set())
        if others := sorted(changed - named - follows):
            found.append(f"arm {arm.name} differs in more than it says: {', '.join(others)}")
    if not all(arm.tune for arm in spec.arms):
        found.append("learning rates are not tuned per arm: the verdict will be INCONCLUSIVE")
    return found
