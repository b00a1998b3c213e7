"""`ladderlm study`: plan, run, fit, report and merge studies."""

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import tyro

from ladderlm.cli.options import parse, parse_part, print_json
from ladderlm.cli.study_runs import StudyProgress, run_study
from ladderlm.cli.study_tables import (
    Expected,
    follow,
    print_line,
    print_plan,
    print_search,
    print_status,
)
from ladderlm.errors import ConfigError, DataError
from ladderlm.executors.choice import ExecutorName, make_executor, require_threads
from ladderlm.executors.local import LocalExecutor
from ladderlm.machine import count_busy_cores
from ladderlm.report.sections import AXES, AxisOptions
from ladderlm.run.directory import RunDirectory
from ladderlm.scaling.compare import Estimate
from ladderlm.study.cost import predict_all, probe, probed_runs
from ladderlm.study.documents import DocumentInterval
from ladderlm.study.fits import Fits, Unjudged, VariantFit
from ladderlm.study.planner import PlannedRun
from ladderlm.study.schedule import n_side_by_side, wall_seconds
from ladderlm.study.study import Study
from ladderlm.units import format_flops

__all__ = ["print_fits", "run", "show_fits"]

SLACK_CORES = 0.3  # cores that other programs may use before measured times are too long
_VERBS = {
    "plan": "List the runs of a study, and predict their time and memory.",
    "run": "Run what is missing of a study, then fit.",
    "status": "Show the state of every run of a study.",
    "fit": "Fit the finished runs of a study, and print its verdicts.",
    "report": "Fit the finished runs of a study, and write its report.",
}
_USAGE = f"""\
usage: ladderlm study {{{",".join(_VERBS)}}} STUDY.toml [--out DIR] [--pool DIR]
       ladderlm study merge DIR... [--out DIR] [--pool DIR]"""


@dataclass(frozen=True, kw_only=True)
class StudyOptions(AxisOptions):
    """Options of a study."""

    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY.toml")]
    """Study file, in TOML."""
    out: str | None = None
    """Folder of the study. Default: studies-out/NAME."""
    pool: str | None = None
    """Folder of runs shared by studies. Default: the study folder's runs."""
    scale: str | None = None
    """Name of a table [scale.NAME] of the study file that replaces options, for example for a GPU.
    Default: none."""
    executor: ExecutorName = "local"
    """Where `study run` carries out the runs. local: processes on this machine. ray: a Ray cluster.
    slurm: a Slurm cluster."""
    threads: int | None = None
    """Number of CPU cores to use. Default: all."""
    part: str | None = None
    """Run part i of n, written as i/n. Any machine may run any part, and `study merge` joins them.
    Default: run everything."""
    no_probe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do not measure this machine: `study plan` predicts no times and no memory."""
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Let `study status` show a live table until all runs have ended."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the answer as JSON."""


@dataclass(frozen=True)
class MergeOptions:
    """Join the parts of a study."""

    parts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Study folders of the parts, as `study run --part` wrote them."""
    out: str | None = None
    """Study folder of the whole. Default: studies-out/NAME."""
    pool: str | None = None
    """Folder of its runs. Default: the study folder's runs."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the fits as JSON."""


def run(argv: list[str]) -> int:
    """Carry out one verb of a study; return 1 if a run failed."""
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help"):
        print(_USAGE)
        return 0
    if verb == "merge":
        merging = parse(MergeOptions, argv[1:], "study merge")
        whole = Study.merge(merging.parts, merging.out, merging.pool, StudyProgress())
        show_fits(whole, merging.json)
        return 0
    if verb not in _VERBS:
        verbs = ", ".join(_VERBS)
        raise ConfigError(f"unknown verb {verb!r}", fix=f"use one of {verbs}, merge")
    options = parse(StudyOptions, argv[1:], f"study {verb}", _VERBS[verb])
    require_threads(options.threads)
    part = None if options.part is None else parse_part(options.part)
    study = Study.open(options.study, options.out, options.pool, options.scale, part)
    if verb == "plan":
        _plan_and_probe(study, options)
        return 0
    if verb == "status":
        watched = options.watch and sys.stderr.isatty()
        print_status(follow(study.status) if watched else study.status(), options.json)
        return 0
    failed = False
    if verb == "run":
        executor = make_executor(options.executor, study.folder / "executor", options.threads)
        failed = bool(run_study(study, executor, StudyProgress()))
    elif not study.status().n_finished:
        raise DataError(
            f"no run of {options.study} has finished in {study.pool}",
            f"there is nothing to {verb}",
            f"run `ladderlm study run {options.study}` with the same --out and --pool",
        )
    if part is not None:
        study.collect()
        folder = study.folder
        print(f"{folder}: part {options.part} is done. When all are: ladderlm study merge DIR...")
        return int(failed)
    show_fits(study, options.json)
    if verb == "report":
        from ladderlm.report.render import write_report

        print(write_report(study.folder / "report", [], [study.folder], options.x))
    return int(failed)


def _plan_and_probe(study: Study, options: StudyOptions) -> None:
    """Print the plan, with times and memory from short runs of a minute at most."""
    plan, pool = study.plan(), study.pool
    if options.no_probe:
        print_plan(plan, pool, options.json)
        return
    machine = LocalExecutor(options.threads)
    n_at_once = n_side_by_side(plan.settled, machine.room())
    shapes = len(probed_runs(plan))
    print_line(f"measuring {shapes} shapes, {n_at_once} at once, for a minute at most")
    busy, n_cores = count_busy_cores(seconds=1.0)  # over this second, not the last minute
    if n_cores - busy < machine.n_threads - SLACK_CORES:
        print_line(
            f"other programs keep about {busy:.1f} of {n_cores} cores busy, so the times will be "
            "too long; plan again when the machine is idle"
        )
    costs = predict_all(plan, probe(plan, n_at_once))

    def seconds_to_go(run: PlannedRun) -> float:
        over = not run.provisional and RunDirectory(pool / run.run_id).finished
        return 0.0 if over else costs[run.run_id].seconds

    expected = Expected(costs, n_at_once, wall_seconds(plan.runs, seconds_to_go, machine.room()))
    print_plan(plan, pool, options.json, expected)


def show_fits(study: Study, as_json: bool = False) -> None:
    """Fit a study, draw its figures and print its verdicts."""
    fits = study.fit()
    _draw_study(study, fits)
    if as_json:
        print_json(fits.to_json())
    else:
        print_fits(fits)


def _draw_study(study: Study, fits: Fits) -> None:
    from ladderlm.report.drawing import draw_figures, publish_figure

    spec = study.spec
    for name, figure in draw_figures(spec.arms, spec.ladder, study.results(), fits).items():
        file = f"scaling-{name}" if name in AXES.values() else name
        publish_figure(study.folder / "figures" / file, figure)


def print_fits(fits: Fits) -> None:
    """Print the verdict of each variant with its numbers."""
    if fits.problem is not None:
        print(fits.problem)
    for reason, count in sorted(Counter(fits.excluded.values()).items()):
        print(f"excluded: {count} runs: {reason}")
    if fits.search is not None:
        print_search(fits.search)
    for judged in fits.variants:
        if isinstance(judged, Unjudged):
            print(f"{judged.variant}: {judged.problem}")
        else:
            _print_variant(judged)


def _print_variant(judged: VariantFit) -> None:
    print(f"{judged.variant}: {judged.verdict.text}")
    print(f"  {judged.verdict.reason}")
    for rung in judged.comparison.rungs:
        shown = rung.censored or f"{rung.estimate.value:.3f}"
        flag = "  (beyond the baseline's range)" if rung.extrapolated else ""
        print(
            f"  rung {rung.rung + 1}: {format_flops(rung.x)}  m = {shown} "
            f"(95 % {rung.estimate.low_95:.3f} to {rung.estimate.high_95:.3f}){flag}"
        )
    for length, m in judged.lengths.items():
        if isinstance(m, Estimate):
            print(
                f"  runs of length {length} only: m = {m.value:.3f} "
                f"(95 % {m.low_95:.3f} to {m.high_95:.3f})"
            )
    if judged.comparison.rate_error:
        error = judged.comparison.rate_error
        print(f"  learning rates: {error:.3f} is their part of the error of the pooled ln m")
    documents = judged.documents
    if isinstance(documents, DocumentInterval):
        print(
            f"  other documents: pooled m 95 % {documents.low_95:.3f} to "
            f"{documents.high_95:.3f} ({documents.n_documents} resampled, models fixed)"
        )
