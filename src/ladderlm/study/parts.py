"""One study on several machines.

Owns how a plan is dealt out in parts, and how the runs that parts have made come into one pool.
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

    The runs of one rung and seed stay together, so that arms that are compared have run on one
    machine, and branches where their trunk is. The largest go first, each to the part with the
    least FLOPs so far; a part may be empty. Every run is in exactly one part.

    Raises:
        ConfigError: there is no such part.
    """
    if not 1 <= part <= n_parts:
        raise ConfigError(f"--part {part}/{n_parts}", "parts count from 1/n to n/n")
    flops: dict[_Pair, float] = {}
    for run in plan.runs:
        flops[_pair(run)] = flops.get(_pair(run), 0.0) + run.flops_to_spend
    loads = [0.0] * n_parts
    owner = {}
    for pair in sorted(flops, key=lambda pair: (-flops[pair], pair)):
        lightest = loads.index(min(loads))
        loads[lightest] += flops[pair]
        owner[pair] = lightest + 1
    return replace(plan, runs=tuple(run for run in plan.runs if owner[_pair(run)] == part))


# Role, rung and seed; and the run itself where it is not compared with one of another arm.
_Pair = tuple[str, int, int, str]


def _pair(run: PlannedRun) -> _Pair:
    return run.role, run.rung.index, run.seed, "" if run.role == "ladder" else run.run_id


def check_same_study(one: StudySpec, other: StudySpec, place: Path) -> None:
    """Refuse a part of another study.

    Raises:
        ConfigError: names what differs; paths, devices and threads may.
    """
    changed = differences(_meaning(one), _meaning(other))
    if changed:
        raise ConfigError(
            f"{place} is a part of another study: {'; '.join(changed[:6])}",
            "runs of two studies in one table would be compared as if they were of one",
            "merge the parts of one study file only",
        )


def _meaning(spec: StudySpec) -> dict[str, Any]:
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
    """What came of a merge, as run ids.

    Args:
        copied: new in the pool.
        present: were there already, with the same results.
        unfinished: begun in a part and not ended, so left where they are.
    """

    copied: tuple[str, ...]
    present: tuple[str, ...]
    unfinished: tuple[str, ...]


def merge_runs(plan: StudyPlan, pool: Path, parts: Sequence[Path]) -> Merged:
    """Copy the ended runs of a plan from the pools of parts into one.

    A finished run takes the place of one that failed or was cut short. All conflicts are looked
    for before anything is copied; after a kill, call again.

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
            "equal configs on machines of different kinds may round differently, and a table "
            "holds one of them; which one is not for ladderlm to say",
            "move one of the two folders away and merge again",
        )


def _results_of(place: Path) -> str:
    """Hash all that a run says, but for times."""
    directory = RunDirectory(place)
    summary = directory.summary() or {}
    return content_hash(_timeless([summary.get("evals"), directory.metrics()]))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key != "timing"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
