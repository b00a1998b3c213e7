"""`Study`: what becomes of a study file, from its plan to its fits.

Owns the order of things, and the files of a study's folder that hold its results. Each step has a
module of its own. Prints nothing and builds no model.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ladderlm.config import from_dict
from ladderlm.errors import ConfigError, DataError
from ladderlm.executors.base import Executor, Outcome, State
from ladderlm.executors.local import LocalExecutor
from ladderlm.files import FolderLock, publish_json, publish_text, read_json
from ladderlm.run.directory import RunDirectory
from ladderlm.study.analysis import analyse
from ladderlm.study.fits import Fits
from ladderlm.study.forecast import StoredForecast, read_forecast, write_forecast
from ladderlm.study.launch import launch, release_trunks
from ladderlm.study.options import LadderOptions
from ladderlm.study.origins import mixed_origins
from ladderlm.study.parts import Merged, check_same_study, merge_runs, part_of
from ladderlm.study.plan import StudyPlan, plan_study
from ladderlm.study.planner import PlannedRun
from ladderlm.study.results import Results, collect_results, reread_results
from ladderlm.study.search import to_toml
from ladderlm.study.spec import (
    Arm,
    StudySpec,
    copy_stored_study,
    read_stored_study,
    read_study,
    store_study,
)
from ladderlm.study.status import StudyStatus, study_status
from ladderlm.text import without_home

__all__ = ["Study", "StudyDescription", "StudyObserver", "StudyRun"]

FITS_FILE, TABLE_FILE, DESCRIPTION_FILE = "fits.json", "results.csv", "study.json"


@dataclass(frozen=True, kw_only=True)
class StudyDescription:
    """What `study.json` holds.

    Args:
        warnings: what a reader of the result would want to have known.
        pool: folder of the runs, from the study's folder.
    """

    name: str
    question: str
    rationale: str
    arms: tuple[Arm, ...]
    ladder: LadderOptions
    warnings: tuple[str, ...]
    pool: str
    demonstration: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        arms = [dict(vars(arm)) for arm in self.arms]
        return vars(self) | {"arms": arms, "ladder": dict(vars(self.ladder))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StudyDescription":
        """Read back what `to_json` returned; other keys are ignored."""
        known = {name: values[name] for name in cls.__dataclass_fields__}
        known["arms"] = tuple(Arm(**arm) for arm in values["arms"])
        known["ladder"] = from_dict(LadderOptions, values["ladder"], "ladder")
        return cls(**known | {"warnings": tuple(values["warnings"])})


@dataclass(frozen=True)
class StudyRun:
    """The outcome of a study: its last plan, and the runs that failed for good."""

    plan: StudyPlan
    failed: tuple[Outcome, ...]


class StudyObserver:
    """Callbacks for the progress of a study. Override those that you want to show."""

    def planned(self, study: "Study", plan: StudyPlan) -> None:
        """Show the plan whose runs are about to start."""

    def watch(self, look: Callable[[], StudyStatus]) -> AbstractContextManager[None]:
        """Show where the study stands while its runs go on; `look` reads it from their folders."""
        del look
        return nullcontext()

    def run_ended(
        self, study: "Study", run: PlannedRun, state: State, look: Callable[[], StudyStatus]
    ) -> None:
        """Show that a run is done or has failed."""

    def merged(self, study: "Study", merged: Merged) -> None:
        """Show what came of copying the runs of parts."""


class Study:
    """A study: its question and ladder, its folder, and the pool of its runs.

    Open one with `Study.open`. Every method reads the folders again, so it may be called again at
    any time: runs that have ended since then are taken into account.

    Args:
        spec: what the study file says.
        folder: where its results go.
        pool: folder of the runs.
        file: the study file, kept in the folder; None: it is there already.
        part: (i, n): only the runs of part i of n.
    """

    def __init__(
        self,
        spec: StudySpec,
        folder: Path,
        pool: Path,
        file: Path | None = None,
        part: tuple[int, int] | None = None,
    ) -> None:
        self.spec, self.folder, self.pool = spec, folder, pool
        self._file, self._part = file, part

    def __repr__(self) -> str:
        """Return name and folder."""
        return f"Study({self.spec.name!r} in {str(self.folder)!r})"

    @classmethod
    def open(
        cls,
        file: str | Path,
        out: str | Path | None = None,
        pool: str | Path | None = None,
        scale: str | None = None,
        part: tuple[int, int] | None = None,
    ) -> "Study":
        """Read a study file, or the folder of a study that has run.

        Args:
            file: study file (TOML), or the folder that `run` wrote.
            out: folder of the study. Default: studies-out/NAME.
            pool: folder of runs that several studies share. Default: the study folder's runs.
            scale: lay the file's `[scale.NAME]` over its base, ladder and arms.
            part: (i, n): only the runs of part i of n.

        Raises:
            ConfigError: the file is not a study, or the folder holds none.
        """
        file = Path(file)
        if file.is_dir():
            described = StudyDescription.from_json(read_json(file / DESCRIPTION_FILE))
            return cls(read_stored_study(file), file, file / described.pool, part=part)
        spec = read_study(file, scale=scale)
        return cls(spec, *_study_places(spec, out, pool), file, part)

    @classmethod
    def merge(
        cls,
        parts: Sequence[str | Path],
        out: str | Path | None = None,
        pool: str | Path | None = None,
        observer: StudyObserver | None = None,
    ) -> "Study":
        """Copy the runs of all parts of a study into one pool; return the whole.

        Args:
            parts: folders of studies that were run in parts.
            out, pool: as in `open`.

        Raises:
            ConfigError: they are not of one study, or two finished runs of one id differ.
        """
        if not parts:
            raise ConfigError("no DIR is named", "", "name the study folders of the parts")
        folders = [Path(part) for part in parts]
        specs = [read_stored_study(folder) for folder in folders]
        for folder, spec in zip(folders, specs, strict=True):
            check_same_study(specs[0], spec, folder)
        study = cls(specs[0], *_study_places(specs[0], out, pool))
        pools = [folder / read_json(folder / DESCRIPTION_FILE)["pool"] for folder in folders]
        plan = study.plan()
        with FolderLock(study.folder):
            if study.folder.resolve() not in [folder.resolve() for folder in folders]:
                copy_stored_study(folders[0], study.folder)
            while True:  # the runs of one stage tell which are those of the next
                (observer or StudyObserver()).merged(study, merge_runs(plan, study.pool, pools))
                before, plan = plan, study.plan()
                if plan.settled == before.settled:
                    return study

    def plan(self, given_up: Collection[str] | None = None) -> StudyPlan:
        """Plan every run, as far as the runs that have ended allow; see `plan_study`."""
        whole = plan_study(self.spec, self.pool, given_up)
        return whole if self._part is None else part_of(whole, *self._part)

    def status(self, at_once: int = 1) -> StudyStatus:
        """Read from the run folders where every run stands; see `study_status`."""
        return study_status(self.plan(), self.pool, at_once)

    def run(
        self, executor: Executor | None = None, observer: StudyObserver | None = None
    ) -> StudyRun:
        """Carry out the runs that are not finished, searches first.

        Args:
            executor: None: this machine, all cores.
            observer: told about the progress.

        Raises:
            LadderError: another process runs this study.
        """
        observer = observer or StudyObserver()
        with FolderLock(self.folder):
            self._store()
            observer.planned(self, self.plan())
            outcomes = self._launch(executor or LocalExecutor(), observer)
            plan = self.plan()
            release_trunks(plan, self.pool)
        return StudyRun(plan, tuple(o for o in outcomes if o.state is State.FAILED))

    def _launch(self, executor: Executor, observer: StudyObserver) -> list[Outcome]:
        """Launch every run as soon as it can be made."""
        running: set[str] = set()
        plan, at_once = self.plan(()), 1

        def look() -> StudyStatus:
            return study_status(plan, self.pool, at_once)

        def replan(given_up: Collection[str]) -> StudyPlan:
            nonlocal plan
            plan = self.plan(given_up)
            return plan

        def on_change(run: PlannedRun, state: State) -> None:
            nonlocal at_once
            (running.add if state is State.RUNNING else running.discard)(run.run_id)
            at_once = max(at_once, len(running))
            if state in (State.DONE, State.FAILED):
                observer.run_ended(self, run, state, look)

        with observer.watch(look):
            return launch(plan, self.pool, executor, on_change, replan)

    def collect(self) -> Results:
        """Read the result of every run; write `results.csv` and `study.json`."""
        return self._collect(self.plan())

    def _collect(self, plan: StudyPlan) -> Results:
        self._store()
        results = collect_results(plan, self.pool)
        results.write(self.folder / TABLE_FILE)
        spec = self.spec
        described = StudyDescription(
            name=spec.name,
            question=spec.question,
            rationale=spec.rationale,
            arms=spec.arms,
            ladder=spec.ladder,
            warnings=(*plan.warnings, *mixed_origins(plan, self.pool)),
            pool=os.path.relpath(self.pool, self.folder),
            demonstration=spec.demonstration,
        )
        publish_json(self.folder / DESCRIPTION_FILE, described.to_json())
        return results

    def fit(self) -> Fits:
        """Collect, forecast the held-out rungs, fit, compare and judge.

        Writes `forecast.json` and `fits.json`, and `search.toml` where a search has ended.

        Raises:
            DataError: no run has begun.
        """
        plan = self.plan()
        if not any(RunDirectory(self.pool / run.run_id).summary() for run in plan.settled):
            raise DataError(
                f"no run of {self.spec.name} has begun in {self.pool}",
                "there is nothing to fit",
                "run the study first: Study.run(), or `ladderlm study run`",
            )
        results = self._collect(plan)
        forecast = write_forecast(self.folder, self.spec, results)
        fits = analyse(self.spec, results, plan.tunings, self.pool, plan.found, forecast)
        if plan.found is not None and plan.found.config is not None:
            publish_text(self.folder / "search.toml", to_toml(plan.found.config))
        publish_json(self.folder / FITS_FILE, fits.to_json())
        return fits

    def description(self) -> StudyDescription:
        """Read back what `collect` wrote of the study."""
        described = StudyDescription.from_json(read_json(self.folder / DESCRIPTION_FILE))
        return replace(described, name=self.spec.name)  # checked: figures are files of that name

    def results(self) -> Results:
        """Read back the table that `collect` wrote."""
        return Results.read(self.folder / TABLE_FILE)

    @property
    def forecast(self) -> StoredForecast | None:
        """The forecast of the held-out rungs, as it was written; None before `fit`."""
        return read_forecast(self.folder)

    def reread(self) -> tuple[Results, Fits]:
        """Return the table again from its runs, and the fits again from that table.

        What stands in `results.csv` and `fits.json` says which runs and searches there were; every
        number is computed again, and nothing is written. The user's home is left out of reasons.

        Raises:
            DataError: there is no table.
        """
        results = reread_results(self.results(), self.pool)
        reasons = [without_home(row.excluded_because) for row in results]
        results = Results(
            tuple(replace(r, excluded_because=w) for r, w in zip(results, reasons, strict=True))
        )
        path = self.folder / FITS_FILE
        known = Fits.from_json(read_json(path)) if path.is_file() else Fits(study=self.spec.name)
        tunings = [tuning.reread(results.rates_of(tuning.arm)) for tuning in known.tuning]
        bits = {row.run_id: row.bits_per_byte for row in results if row.bits_per_byte is not None}
        search = known.search.reread(bits) if known.search and known.search.rows else None
        return results, analyse(self.spec, results, tunings, self.pool, search, self.forecast)

    def _store(self) -> None:
        if self._file is not None:
            store_study(self.folder, self._file, self.spec)


def _study_places(
    spec: StudySpec, out: str | Path | None, pool: str | Path | None
) -> tuple[Path, Path]:
    """Return the folder of a study and its pool of runs."""
    folder = Path(out) if out else Path("studies-out") / spec.name
    shared = pool or spec.pool
    return folder, Path(shared) if shared else folder / "runs"
