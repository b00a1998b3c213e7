"""Show the progress of `ladderlm study run`."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from ladderlm.cli.study_tables import live_table, print_line, print_plan
from ladderlm.executors.base import Executor, Outcome, State
from ladderlm.run.directory import RunDirectory
from ladderlm.study.ladder import name_rung
from ladderlm.study.parts import Merged
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planner import PlannedRun
from ladderlm.study.status import StudyStatus
from ladderlm.study.study import Study, StudyObserver
from ladderlm.units import format_seconds

__all__ = ["StudyProgress", "run_study"]


class StudyProgress(StudyObserver):
    """Progress as a line for each run that ends, and a table at the bottom of a terminal."""

    def planned(self, study: Study, plan: StudyPlan) -> None:
        """Print the plan."""
        print_plan(plan, study.pool)

    def watch(self, look: Callable[[], StudyStatus]) -> AbstractContextManager[None]:
        """Print how many runs are finished already, and keep the table up to date."""
        before = look()
        if before.n_finished:
            print_line(f"{before.n_finished} of {len(before.runs)} runs are finished already")
        return live_table(look)

    def run_ended(
        self, study: Study, run: PlannedRun, state: State, look: Callable[[], StudyStatus]
    ) -> None:
        """Print the loss of a run, or its failure, and the remaining time."""
        scores = RunDirectory(study.pool / run.run_id).scores(run.config.eval.split)
        shown = f"{scores['bits_per_byte']:.4f} bits/byte" if scores else state.value
        status = look()
        left = status.remaining_seconds
        rest = f"; about {format_seconds(left)} remaining" if left else ""
        print_line(f"[{status.n_finished}/{len(status.runs)}] {_label(run)}: {shown}{rest}")

    def merged(self, study: Study, merged: Merged) -> None:
        """Print how many runs were copied, and which have not ended."""
        print_line(
            f"{study.folder}: {len(merged.copied)} runs copied, {len(merged.present)} were there"
        )
        for run_id in merged.unfinished:
            print_line(f"run {run_id} has not finished in any part and was not copied")


def run_study(
    study: Study, executor: Executor | None, observer: StudyObserver
) -> tuple[Outcome, ...]:
    """Run a study, print its problems and return the runs that failed."""
    failed = study.run(executor, observer)
    for outcome in failed:
        print_line(
            f"run {outcome.job.name} failed with exit code {outcome.exit_code} after "
            f"{outcome.n_tries} tries; see {outcome.job.log}"
        )
    for tuning in study.plan().tunings:
        if tuning.problem:
            print_line(f"arm {tuning.arm}: {tuning.problem}")
    return failed


def _label(run: PlannedRun) -> str:
    label = f"{run.arm}, rung {name_rung(run.rung.index, run.rung.branch)}, seed {run.seed}"
    if run.role == "bracket":
        label += f", rate {run.config.optim.learning_rate:.3g}"
    return label + (f", {run.role}" if run.role != "ladder" else "")
