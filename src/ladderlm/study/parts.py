"""One study on several machines.

Owns the division of a plan into parts, and the merging of their runs into one pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ladderlm.config import content_hash, differences, meaning_of, to_dict
from ladderlm.errors import ConfigError
from ladderlm.files import copy_folder, remove_tree
from ladderlm.run.directory import RunDirectory
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planner import PlannedRun
from ladderlm.study.spec import StudySpec

__all__ = ["Merged", "check_same_study", "merge_runs", "part_of"]


def part_of(plan: StudyPlan, part: int, n_parts: int) -> StudyPlan:
    """Return the runs of part 1 <= part <= n_parts.

    The runs of one rung and seed stay together, so that arms are compared on one machine and
    branches are where their trunk is. The largest groups go first, each to the part with the fewest
    FLOPs so far; a part may be empty. Every run is in exactly one part.

    Raises:
        ConfigError: there is no such part.
    """
    if not 1 <= part <= n_parts:
        raise ConfigError(
            f"--part must be 1/{n_parts} to {n_parts}/{n_parts}, got {part}/{n_parts}"
        )
    flops: dict[_Pair, float] = {}
    for run in plan.runs:
        flops[_pair_of(run)] = flops.get(_pair_of(run), 0.0) + run.flops_to_spend
    loads = [0.0] * n_parts
    owner = {}
    for pair in sorted(flops, key=lambda pair: (-flops[pair], pair)):
        lightest = loads.index(min(loads))
        loads[lightest] += flops[pair]
        owner[pair] = lightest + 1
    return replace(plan, runs=tuple(run for run in plan.runs if owner[_pair_of(run)] == part))


# Role, rung and seed; also the run itself where it is not compared with another arm's.
_Pair = tuple[str, int, int, str]


def _pair_of(run: PlannedRun) -> _Pair:
    return run.role, run.rung.index, run.seed, "" if run.role == "ladder" else run.run_id


def check_same_study(one: StudySpec, other: StudySpec, place: Path) -> None:
    """Check that a part is of the same study; paths, devices and threads may differ.

    Raises:
        ConfigError: it is not; names the differences.
    """
    changed = differences(_meaning(one), _meaning(other))
    if changed:
        raise ConfigError(
            f"{place} is a part of another study: {'; '.join(changed[:6])}",
            fix="merge the parts of one study file only",
        )


def _meaning(spec: StudySpec) -> dict[str, object]:
    arms = {arm.name: {"set": arm.set, "tune": arm.tune} for arm in spec.arms}
    return {
        "name": spec.name,
        "base": meaning_of(spec.base),
        "ladder": to_dict(spec.ladder),
        "arms": arms,
        "search": None if spec.search is None else to_dict(spec.search),
    }


@dataclass(frozen=True)
class Merged:
    """The run ids of a merge.

    Args:
        copied: new in the pool.
        present: there already, with the same results.
        unfinished: started in a part and not ended, so not copied.
    """

    copied: tuple[str, ...]
    present: tuple[str, ...]
    unfinished: tuple[str, ...]


def merge_runs(plan: StudyPlan, pool: Path, parts: Sequence[Path]) -> Merged:
    """Copy the ended runs of a plan from the pools of parts into one.

    A finished run replaces one that failed or was interrupted. All conflicts are found before
    anything is copied. After a kill, call again.

    Raises:
        ConfigError: two finished runs of one id differ in their losses.
    """
    sources: dict[str, Path] = {}
    present, unfinished = [], []
    for run_id in dict.fromkeys(run.run_id for run in plan.settled):
        own, found = pool / run_id, [part / run_id for part in parts]
        status = {place: _status(place) for place in (own, *found)}
        finished = [place for place in status if status[place] == "finished"]
        for place in finished[1:]:
            _check_equal(finished[0], place)
        failed = [place for place in found if status[place] == "failed"]
        if own in finished:
            present.append(run_id)
        elif finished or (failed and status[own] != "failed"):
            sources[run_id] = (finished or failed)[0]
        elif any(status[place] not in (None, "failed") for place in found):
            unfinished.append(run_id)
    for run_id, source in sources.items():
        if (pool / run_id).exists():
            remove_tree(pool / run_id)
        copy_folder(source, pool / run_id)
    return Merged(tuple(sources), tuple(present), tuple(unfinished))


def _status(place: Path) -> str | None:
    summary = RunDirectory(place).summary()
    return None if summary is None else str(summary["status"])


def _check_equal(one: Path, other: Path) -> None:
    if _results_of(one) != _results_of(other):
        raise ConfigError(
            f"{one} and {other} are finished runs of one name with different results",
            "machines of different kinds may round differently, and a table holds one of the two",
            "move one of the two folders away and merge again",
        )


def _results_of(place: Path) -> str:
    """Hash the evaluations and metrics of a run, without times."""
    directory = RunDirectory(place)
    summary = directory.summary() or {}
    return content_hash(_timeless([summary.get("evals"), directory.metrics()]))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key != "timing"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
