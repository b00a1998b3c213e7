"""A search over options of the baseline: its stages, its table, and a config to train with.

Owns which combinations run on which rung, and their results. The runs are in the study's pool, and
none is repeated.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ladderlm.config import to_dict
from ladderlm.errors import ConfigError
from ladderlm.study.options import SearchOptions
from ladderlm.study.planner import PlannedRate, PlannedRun, Planner
from ladderlm.study.records import IN_MEMORY
from ladderlm.training.run_config import RunConfig
from ladderlm.units import format_flops

__all__ = ["SearchResult", "Trial", "plan_search", "to_toml"]


@dataclass(frozen=True)
class Trial:
    """One combination whose run has ended.

    Args:
        rung: from 1.
        bits_per_byte: None if the run failed.
    """

    rung: int
    options: Mapping[str, Any]
    bits_per_byte: float | None
    run_id: str


@dataclass(frozen=True)
class SearchResult:
    """The results of a search so far.

    Args:
        rows: every combination that has ended, in order of rung, then loss.
        best: the best at the chosen rung; None before all have ended.
        edges: options whose best value is the smallest or largest number tried.
        config: of the best; not stored.
    """

    rows: tuple[Trial, ...]
    best: Trial | None
    edges: tuple[str, ...]
    config: RunConfig | None = field(default=None, metadata=IN_MEMORY)

    def reread(self, bits_per_byte: Mapping[str, float]) -> "SearchResult":
        """Return the same trials with the current losses of their runs, by run id."""

        def update(trial: Trial) -> Trial:
            return replace(trial, bits_per_byte=bits_per_byte.get(trial.run_id))

        best = None if self.best is None else update(self.best)
        return replace(self, rows=tuple(map(update, self.rows)), best=best)


def plan_search(planner: Planner, search: SearchOptions) -> tuple[list[PlannedRun], SearchResult]:
    """Plan the search as far as its finished runs allow; runs of later stages are provisional.

    Raises:
        ConfigError: all runs together would exceed the budget.
    """
    candidates = search.combinations()
    rungs = list(range(search.rung)) if search.method == "halving" else [search.rung - 1]
    runs: list[PlannedRun] = []
    trials: list[Trial] = []
    last: list[PlannedRun] = []
    losses: list[float] | None = []
    for rung in rungs:
        waiting = losses is None
        last = [_search_run(planner, options, rung, waiting) for options in candidates]
        runs += last
        losses = None if waiting else planner.losses_of(last)
        order = list(range(len(candidates)))
        if losses is not None:
            order.sort(key=losses.__getitem__)
            trials += [_trial(last[i], candidates[i], rung, losses[i]) for i in order]
        candidates = [candidates[i] for i in order[: math.ceil(len(order) / 2)]]
    flops = sum(run.rung.flops for run in runs)
    if flops > search.flops:
        raise ConfigError(
            f"the {len(runs)} runs of the search take {format_flops(flops)}, more than its budget "
            f"of {format_flops(search.flops)}",
            "",
            "try fewer values, a lower rung, a random search of fewer samples, or raise the budget",
        )
    if losses is None or not math.isfinite(min(losses)):
        return runs, SearchResult(tuple(trials), None, ())
    best = next(trial for trial in trials if trial.rung == rungs[-1] + 1)
    winner = next(run for run in last if run.run_id == best.run_id)
    return runs, SearchResult(tuple(trials), best, _edges(search, best.options), winner.config)


def _search_run(
    planner: Planner, options: Mapping[str, Any], rung: int, provisional: bool
) -> PlannedRun:
    baseline = planner.spec.arms[0]
    arm = replace(baseline, set=baseline.set | dict(options))
    seed = planner.spec.ladder.seeds[0]
    return planner.run(arm, rung, seed, PlannedRate(provisional=provisional), "search")


def _trial(run: PlannedRun, options: Mapping[str, Any], rung: int, loss: float) -> Trial:
    return Trial(rung + 1, dict(options), loss if math.isfinite(loss) else None, run.run_id)


def _edges(search: SearchOptions, best: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options whose best value is the smallest or largest of three or more numbers."""

    def is_edge(name: str, values: tuple[Any, ...]) -> bool:
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        return numbers and len(values) > 2 and best[name] in (min(values), max(values))

    return tuple(name for name, values in search.options if is_edge(name, values))


# Filled in from data and machine when a run begins.
_NOT_CHOSEN = ("data.fingerprint", "data.tokenizer_fingerprint", "eval.fingerprint")


def to_toml(config: RunConfig) -> str:
    """Return a config as TOML for `ladderlm train --config`, without the defaults."""
    default = to_dict(RunConfig())
    lines: list[str] = []
    for table, values in to_dict(config).items():
        chosen = [
            f"{name} = {json.dumps(value)}"
            for name, value in (values.items() if isinstance(values, dict) else ())
            if value not in (None, default[table][name]) and f"{table}.{name}" not in _NOT_CHOSEN
        ]
        lines += ["", f"[{table}]", *chosen] if chosen else []
    return "\n".join(lines).strip() + "\n"
