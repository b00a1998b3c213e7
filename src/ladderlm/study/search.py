"""A search over options of the baseline: its stages, its table, and a config to train with.

Owns which combinations run on which rung, and what came of them. All runs are the study's own: they
lie in its pool, and none is made twice.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ladderlm.config import to_dict
from ladderlm.errors import ConfigError
from ladderlm.study.options import SearchOptions
from ladderlm.study.planned import PlannedRun, Planner
from ladderlm.train.run_config import RunConfig
from ladderlm.units import format_flops

__all__ = ["Found", "plan_search", "to_toml"]


@dataclass(frozen=True)
class Found:
    """What a search has found by now.

    Args:
        rows: every combination that has ended, {"rung", "options", "bits_per_byte", "run_id"}; a
            run that failed has no bits per byte. In order of rung, then loss.
        best: the row of the best at the chosen rung, and its config; None before all have ended.
        edges: options whose best value is the smallest or largest number tried.
    """

    rows: tuple[dict[str, Any], ...]
    best: dict[str, Any] | None
    config: RunConfig | None
    edges: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Give plain values, without the config."""
        return {"rows": list(self.rows), "best": self.best, "edges": list(self.edges)}


def plan_search(planner: Planner, search: SearchOptions) -> tuple[list[PlannedRun], Found]:
    """Plan the search as far as its finished runs allow; runs of later stages are provisional.

    Raises:
        ConfigError: the whole would take more than its budget.
    """
    candidates = search.combinations()
    rungs = list(range(search.rung)) if search.method == "halving" else [search.rung - 1]
    runs: list[PlannedRun] = []
    rows: list[dict[str, Any]] = []
    last: list[PlannedRun] = []
    losses: list[float] | None = []
    for rung in rungs:
        waiting = losses is None
        last = [_run(planner, options, rung, waiting) for options in candidates]
        runs += last
        losses = None if waiting else planner.losses_of(last)
        keep = math.ceil(len(candidates) / 2)
        if losses is None:
            candidates = candidates[:keep]
            continue
        order = sorted(range(len(candidates)), key=losses.__getitem__)
        rows += [_row(last[i], candidates[i], rung, losses[i]) for i in order]
        candidates = [candidates[i] for i in order[:keep]]
    flops = sum(run.rung.flops for run in runs)
    if flops > search.flops:
        raise ConfigError(
            f"the search takes {format_flops(flops)}, its budget is {format_flops(search.flops)}",
            f"{len(runs)} runs were asked for",
            "try fewer values, a lower rung, a random search of fewer samples, or raise the budget",
        )
    if losses is None or not math.isfinite(min(losses)):
        return runs, Found(tuple(rows), None, None, ())
    best = next(row for row in rows if row["rung"] == rungs[-1] + 1)
    winner = next(run for run in last if run.run_id == best["run_id"])
    return runs, Found(tuple(rows), best, winner.config, _edges(search, best["options"]))


def _run(planner: Planner, options: Mapping[str, Any], rung: int, provisional: bool) -> PlannedRun:
    baseline = planner.spec.arms[0]
    arm = replace(baseline, set=baseline.set | dict(options))
    seed = planner.spec.ladder.seeds[0]
    return planner.run(arm, rung, seed, role="search", provisional=provisional)


def _row(run: PlannedRun, options: Mapping[str, Any], rung: int, loss: float) -> dict[str, Any]:
    bits = loss if math.isfinite(loss) else None
    row = {"rung": rung + 1, "options": dict(options), "bits_per_byte": bits}
    return row | {"run_id": run.run_id}


def _edges(search: SearchOptions, best: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the options whose best value is the end of a list of numbers.

    Two numbers are a choice, not a range.
    """
    found = []
    for name, values in search.options:
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if numbers and len(values) > 2 and best[name] in (min(values), max(values)):
            found.append(name)
    return tuple(found)


# Filled in from data and machine when a run begins.
_NOT_CHOSEN = ("out", "data.fingerprint", "data.tokenizer_fingerprint", "eval.fingerprint")


def to_toml(config: RunConfig) -> str:
    """Spell a config for `ladderlm train --config`: all that differs from the defaults."""
    default = to_dict(RunConfig())
    tables: dict[str, dict[str, Any]] = {}
    for table, values in to_dict(config).items():
        if isinstance(values, dict):
            tables[table] = {
                name: value
                for name, value in values.items()
                if value != default[table][name]
                and value is not None
                and f"{table}.{name}" not in _NOT_CHOSEN
            }
    lines = []
    for table, values in tables.items():
        if values:
            lines += ["", f"[{table}]"]
            lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(lines).strip() + "\n"
