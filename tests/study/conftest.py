"""A small study, carried out once for all tests of this folder."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import InOwnProcess, tiny_study, write_study
from ladderlm.executors.base import Outcome
from ladderlm.study.launch import launch
from ladderlm.study.plan import StudyPlan, plan_study
from ladderlm.study.results import Results, collect_results
from ladderlm.study.spec import StudySpec, read_study, store_study


@dataclass(frozen=True)
class Done:
    """A study that has been carried out: do not write into it."""

    folder: Path
    spec: StudySpec
    plan: StudyPlan
    pool: Path
    outcomes: list[Outcome]
    started: list[str]
    rows: Results


@pytest.fixture(scope="session")
def done(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Three arms on three rungs; the third arm's rate is so high that every run diverges."""
    folder = tmp_path_factory.mktemp("study")
    values = tiny_study(tiny_data)
    values["arm"].append({"name": "broken", "set": {"optim.learning_rate": 1e30}})
    file = write_study(folder / "tiny.toml", values)
    spec, pool = read_study(file), folder / "out/runs"
    store_study(folder / "out", file, spec)
    plan = plan_study(spec, pool)
    executor = InOwnProcess()
    outcomes = launch(plan, pool, executor)
    rows = collect_results(plan, pool)
    return Done(folder / "out", spec, plan, pool, outcomes, executor.started, rows)
