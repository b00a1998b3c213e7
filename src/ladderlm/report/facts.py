"""Everything that a report states, gathered from run and study folders.

Owns `gather`: a pure function from folders to typed values, so that a report can be checked by
gathering them again. Draws and writes nothing.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.config import to_dict
from ladderlm.errors import ConfigError
from ladderlm.files import to_json
from ladderlm.report.data_facts import DataFacts, TrivialScores, read_data
from ladderlm.report.run_facts import Curves, RunFacts, Samples, read_curves, read_run, read_samples
from ladderlm.report.studies import StudyFacts
from ladderlm.run.directory import RunDirectory
from ladderlm.study.ladder import name_rung
from ladderlm.study.records import NoAnswer, parse_record, plain
from ladderlm.training.run_config import RunConfig

__all__ = ["FACTS_VERSION", "ForecastCheck", "ReportFacts", "facts_of", "gather"]

FACTS_VERSION = 2  # 2: hardware and versions of a run are under `machine`


@dataclass(frozen=True)
class ForecastCheck:
    """The law of a study compared with the best run, which is not one of its runs.

    Args:
        times_the_top_rung: compute of the run divided by that of the study's largest.
        relative_error: predicted / actual - 1.
    """

    study: str
    arm: str
    times_the_top_rung: float
    predicted_bits_per_byte: float
    actual_bits_per_byte: float
    relative_error: float


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """Everything that a report states.

    Args:
        best: id of the run with the lowest bits per byte. Curves, samples and data are of this run.
        data: a problem if the data cannot be opened any more.
    """

    facts_version: int
    best: str
    runs: tuple[RunFacts, ...]
    studies: tuple[StudyFacts, ...]
    curves: Curves
    samples: Samples
    data: DataFacts | NoAnswer
    forecast_check: ForecastCheck | None

    @property
    def best_run(self) -> RunFacts:
        """The run with the lowest bits per byte."""
        return next(run for run in self.runs if run.run_id == self.best)

    @property
    def trivial(self) -> TrivialScores | None:
        """Scores of models that need no training; None if the data cannot be opened."""
        return self.data.trivial if isinstance(self.data, DataFacts) else None

    def to_json(self) -> dict[str, Any]:
        """Return the content of `facts.json`."""
        values = {name: plain(value) for name, value in vars(self).items()}
        return dict(json.loads(to_json(values, indent=None)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ReportFacts":
        """Read what `to_json` returned."""
        return parse_record(cls, values)


def gather(
    runs: Sequence[Path],
    studies: Sequence[Path],
    home: Path,
    trivial: TrivialScores | None = None,
) -> ReportFacts:
    """Read runs and studies.

    Args:
        runs: run folders, in addition to the runs of the studies.
        studies: study folders.
        home: folder of the report; paths in the facts are relative to it.
        trivial: scores of an older report, reused if they are of the same data.

    Raises:
        ConfigError: there is no finished run, or two studies have the same name.
        LadderError: a folder is not a run or a study, or cannot be read.
    """
    return facts_of(runs, [StudyFacts.read(folder, home) for folder in studies], home, trivial)


def facts_of(
    runs: Sequence[Path],
    studies: Sequence[StudyFacts],
    home: Path,
    trivial: TrivialScores | None = None,
) -> ReportFacts:
    """Return the facts of runs and of studies that have been read; see `gather`."""
    names = [study.about.name for study in studies]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"studies of one report must have different names, got {', '.join(names)}",
            fix="write one report for each of them",
        )
    places = [Path(run) for run in runs]
    for study in studies:
        pool = home / study.folder / study.about.pool
        places += [pool / row.run_id for row in study.results if row.status != "missing"]
    unique = list({os.path.realpath(place): place for place in places}.values())
    read = [read_run(place, home) for place in unique]
    found = [replace(run, roles=_roles_of(run.run_id, studies)) for run in read]
    scored = [run for run in found if run.has_finite_scores]
    if not scored:
        raise ConfigError(
            "a report needs a finished run with a finite loss, found none",
            fix="finish a run or a study first, for example with `ladderlm study run`",
        )
    best = min(scored, key=lambda run: float(run.bits_per_byte or 0))
    directory = RunDirectory(unique[found.index(best)])
    facts = ReportFacts(
        facts_version=FACTS_VERSION,
        best=best.run_id,
        runs=tuple(found),
        studies=tuple(studies),
        curves=read_curves(directory),
        samples=read_samples(directory),
        data=read_data(directory.config(), trivial),
        forecast_check=_check_forecast(best, found, studies),
    )
    return ReportFacts.from_json(facts.to_json())  # the same values as `verify` reads


def _roles_of(run_id: str, studies: Sequence[StudyFacts]) -> tuple[str, ...]:
    """Return the arm, rung and seed of a run in each study."""
    return tuple(
        f"{study.about.name}: {row.arm}, rung {name_rung(row.rung, row.branch)}, seed {row.seed}"
        for study in studies
        for row in study.results
        if row.run_id == run_id
    )


def _check_forecast(
    best: RunFacts, runs: Sequence[RunFacts], studies: Sequence[StudyFacts]
) -> ForecastCheck | None:
    """Compare the best run with the law of a study of the same recipe, if there is one."""
    recipes = {run.run_id: _recipe_of(run.config) for run in runs}
    for study in [] if best.roles else studies:
        law, rows = study.fits.law, study.results
        same = [row.arm for row in rows if recipes.get(row.run_id) == recipes[best.run_id]]
        if law is not None and same and same[0] in law.arms and 1.0 in law.branches:
            predicted = float(law.predict(same[0], np.array([float(best.flops)]))[0])
            actual = float(best.last_bits_per_byte or 0)
            return ForecastCheck(
                study=study.about.name,
                arm=same[0],
                times_the_top_rung=float(best.flops) / max(row.flops for row in rows),
                predicted_bits_per_byte=predicted,
                actual_bits_per_byte=actual,
                relative_error=predicted / actual - 1,
            )
    return None


def _recipe_of(config: RunConfig) -> object:
    """Return the config of a run without the options that a ladder varies."""
    shape = ("dim", "n_layers", "n_heads", "n_kv_heads", "max_seq_len")
    return {
        "model": {k: v for k, v in to_dict(config.model).items() if k not in shape},
        "optim": to_dict(config.optim),
        "data": {k: v for k, v in to_dict(config.data).items() if k != "order_seed"},
        "precision": config.train.precision,
        "eval": [config.eval.fingerprint, config.eval.context],
    }
