"""`Study`: from a study file to its plan, runs, results and fits.

Owns the order of the steps, and the result files of a study's folder. Each step has its own module.
Prints nothing and builds no model.
"""

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

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
from ladderlm.study.records import parse_record, plain
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

__all__ = ["Study", "StudyDescription", "StudyObserver"]

FITS_FILE, TABLE_FILE, DESCRIPTION_FILE = "fits.json", "results.csv", "study.json"


@dataclass(frozen=True, kw_only=True)
class StudyDescription:
    """The content of `study.json`.

    Args:
        warnings: for readers of the results.
        pool: folder of the runs, relative to the study's folder.
    """

    name: str
    question: str
    rationale: str
    arms: tuple[Arm, ...]
    ladder: LadderOptions
    warnings: tuple[str, ...]
    pool: str
    demonstration: bool


class StudyObserver:
    """Callbacks for the progress of a study, which do nothing unless overridden."""

    def planned(self, study: "Study", plan: StudyPlan) -> None:
        """Show the plan before its runs start."""

    def watch(self, look: Callable[[], StudyStatus]) -> AbstractContextManager[None]:
        """Show the status that `look` reads while the runs are under way."""
        del look
        return nullcontext()

    def run_ended(
        self, study: "Study", run: PlannedRun, state: State, look: Callable[[], StudyStatus]
    ) -> None:
        """Show that a run is done or has failed."""

    def merged(self, study: "Study", merged: Merged) -> None:
        """Show which runs of the parts were copied."""


class Study:
    """A study: its question and ladder, its folder, and the pool of its runs.

    Open one with `Study.open`. Every method reads the folders again, so it takes into account the
    runs that have ended since the last call.

    Args:
        folder: of the results.
        pool: folder of the runs.
        file: study file to store in the folder; None if it is there already.
        part: (i, n) for only the runs of part i of n.
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
            file: study file (TOML), or the folder of a study.
            out: folder of the study. Default: studies-out/NAME.
            pool: folder of runs that several studies share. Default: the study folder's runs.
            scale: name of the file's `[scale.NAME]` to lay over base, ladder and arms.
            part: (i, n) for only the runs of part i of n.

        Raises:
            ConfigError: the file is not a study, or the folder holds none.
        """
        file = Path(file)
        if file.is_dir():
            return cls(read_stored_study(file), file, _stored_pool(file), part=part)
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
        """Copy the runs of all parts of a study into one pool, and return the whole study.

        Args:
            parts: study folders of the parts.
            out, pool: as in `open`.

        Raises:
            ConfigError: the parts are not of one study, or two finished runs of one id differ.
        """
        if not parts:
            raise ConfigError("no DIR is named", "", "name the study folders of the parts")
        folders = [Path(part) for part in parts]
        specs = [read_stored_study(folder) for folder in folders]
        for folder, spec in zip(folders, specs, strict=True):
            check_same_study(specs[0], spec, folder)
        study = cls(specs[0], *_study_places(specs[0], out, pool))
        pools = [_stored_pool(folder) for folder in folders]
        plan = study.plan()
        with FolderLock(study.folder):
            if study.folder.resolve() not in [folder.resolve() for folder in folders]:
                copy_stored_study(folders[0], study.folder)
            while True:  # the runs of one stage determine those of the next
                (observer or StudyObserver()).merged(study, merge_runs(plan, study.pool, pools))
                before, plan = plan, study.plan()
                if plan.settled == before.settled:
                    return study

    def plan(self, given_up: Collection[str] | None = None) -> StudyPlan:
        """Plan every run, as far as the runs that have ended allow; see `plan_study`."""
        whole = plan_study(self.spec, self.pool, given_up)
        return whole if self._part is None else part_of(whole, *self._part)

    def status(self, at_once: int = 1) -> StudyStatus:
        """Read the status of every run; see `study_status`."""
        return study_status(self.plan(), self.pool, at_once)

    def run(
        self, executor: Executor | None = None, observer: StudyObserver | None = None
    ) -> tuple[Outcome, ...]:
        """Carry out the runs that are not finished, searches first; return those that failed.

        Args:
            executor: None for all cores of this machine.

        Raises:
            LadderError: another process runs this study.
        """
        observer = observer or StudyObserver()
        with FolderLock(self.folder):
            self._store()
            observer.planned(self, self.plan())
            outcomes = self._launch(executor or LocalExecutor(), observer)
            release_trunks(self.plan(), self.pool)
        return tuple(outcome for outcome in outcomes if outcome.state is State.FAILED)

    def _launch(self, executor: Executor, observer: StudyObserver) -> list[Outcome]:
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
        publish_json(self.folder / DESCRIPTION_FILE, plain(described))
        return results

    def fit(self) -> Fits:
        """Collect, forecast the held-out rungs, fit, compare and judge.

        Writes `forecast.json` and `fits.json`, and `search.toml` when a search has ended.

        Raises:
            DataError: no run has started.
        """
        plan = self.plan()
        if not any(RunDirectory(self.pool / run.run_id).summary() for run in plan.settled):
            raise DataError(
                f"no run of {self.spec.name} has begun in {self.pool}",
                fix="run the study first: Study.run(), or `ladderlm study run`",
            )
        results = self._collect(plan)
        forecast = write_forecast(self.folder, self.spec, results)
        fits = analyse(self.spec, results, plan.tunings, self.pool, plan.found, forecast)
        if plan.found is not None and plan.found.config is not None:
            publish_text(self.folder / "search.toml", to_toml(plan.found.config))
        publish_json(self.folder / FITS_FILE, fits.to_json())
        return fits

    def description(self) -> StudyDescription:
        """Read back `study.json`, as `collect` wrote it."""
        described = parse_record(StudyDescription, read_json(self.folder / DESCRIPTION_FILE))
        return replace(described, name=self.spec.name)  # checked: figures are files of that name

    def results(self) -> Results:
        """Read back the table that `collect` wrote."""
        return Results.read(self.folder / TABLE_FILE)

    @property
    def forecast(self) -> StoredForecast | None:
        """The stored forecast of the held-out rungs; None before `fit`."""
        return read_forecast(self.folder)

    def reread(self) -> tuple[Results, Fits]:
        """Compute the table again from its runs, and the fits from that table.

        The runs and searches are those of `results.csv` and `fits.json`. Nothing is written, and
        the user's home folder is left out of reasons.

        Raises:
            DataError: there is no table.
        """
        rows = reread_results(self.results(), self.pool)
        shown = (replace(r, excluded_because=without_home(r.excluded_because)) for r in rows)
        results, path = Results(tuple(shown)), self.folder / FITS_FILE
        known = Fits.from_json(read_json(path)) if path.is_file() else Fits(study=self.spec.name)
        tunings = [tuning.reread(results.rates_of(tuning.arm)) for tuning in known.tuning]
        bits = {row.run_id: row.bits_per_byte for row in results if row.bits_per_byte is not None}
        search = known.search.reread(bits) if known.search and known.search.rows else None
        return results, analyse(self.spec, results, tunings, self.pool, search, self.forecast)

    def _store(self) -> None:
        if self._file is not None:
            store_study(self.folder, self._file, self.spec)


def _stored_pool(folder: Path) -> Path:
    return folder / str(read_json(folder / DESCRIPTION_FILE)["pool"])


def _study_places(
    spec: StudySpec, out: str | Path | None, pool: str | Path | None
) -> tuple[Path, Path]:
    """Return the folder of a study and its pool of runs."""
    folder = Path(out) if out else Path("studies-out") / spec.name
    shared = pool or spec.pool
    return folder, Path(shared) if shared else folder / "runs"
