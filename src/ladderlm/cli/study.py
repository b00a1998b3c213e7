"""`ladderlm study`: plan, run, status, fit, report, merge."""

import contextlib
import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, parse_part, print_json
from ladderlm.cli.study_runs import carry_out
from ladderlm.cli.study_tables import (
    Expected,
    describe_search,
    follow,
    print_plan,
    print_status,
)
from ladderlm.errors import ConfigError, DataError
from ladderlm.executors.base import Outcome
from ladderlm.executors.choice import ExecutorName, make_executor, require_threads
from ladderlm.executors.local import LocalExecutor
from ladderlm.files import FolderLock, publish_json, publish_text, read_json
from ladderlm.machine import count_busy_cores
from ladderlm.report.sections import AXES, Axis
from ladderlm.run.directory import RunDirectory
from ladderlm.study.analysis import analyse
from ladderlm.study.asides import best_sizes, mixed_origins, seed_noise
from ladderlm.study.cost import predict_all, probe, probed_runs
from ladderlm.study.forecast import score_forecast, write_forecast
from ladderlm.study.parts import check_same_study, merge_runs, part_of
from ladderlm.study.plan import StudyPlan, plan_study
from ladderlm.study.planned import PlannedRun
from ladderlm.study.results import Row, collect_results, write_results
from ladderlm.study.schedule import n_side_by_side, wall_seconds
from ladderlm.study.search import to_toml
from ladderlm.study.spec import (
    StudySpec,
    copy_stored_study,
    read_stored_study,
    read_study,
    store_study,
)
from ladderlm.study.status import study_status
from ladderlm.units import format_flops

__all__ = ["describe_fits", "evaluate_study", "open_study", "run"]

SLACK_CORES = 0.3  # that other work may take before a probe of speed comes out too slow
_VERBS = ("plan", "run", "status", "fit", "report")
_USAGE = f"""\
usage: ladderlm study {{{",".join(_VERBS)}}} STUDY.toml [--out DIR] [--pool DIR]
       ladderlm study merge DIR... [--out DIR] [--pool DIR]"""


@dataclass(frozen=True)
class StudyOptions:
    """An ablation over a ladder of compute."""

    study: Annotated[str, tyro.conf.Positional]
    """Study file (TOML)."""
    out: str | None = None
    """Study folder. Default: studies-out/NAME."""
    pool: str | None = None
    """Folder of runs shared by studies. Default: the study folder's runs."""
    scale: str | None = None
    """Lay the file's [scale.NAME] over its base, ladder and arms, for example for a GPU."""
    executor: ExecutorName = "local"
    """What carries out the runs (run)."""
    threads: int | None = None
    """Cores to fill. Default: all."""
    part: str | None = None
    """Part i of n, as i/n: any machine may run any part. `study merge` joins them."""
    x: Axis = "flops"
    """What the first figure is drawn against (report)."""
    no_probe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Try nothing on this machine, so predict neither time nor memory (plan)."""
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show a live table until all runs have ended (status, on a terminal)."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print as JSON (all but parts)."""


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
    """Do as asked."""
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help"):
        print(_USAGE)
        return 0
    if verb == "merge":
        return _merge(parse(MergeOptions, argv[1:], "study merge", "Join the parts of a study."))
    if verb not in _VERBS:
        raise ConfigError(f"unknown verb {verb!r}", "", f"use one of {', '.join(_VERBS)}, merge")
    options = parse(StudyOptions, argv[1:], f"study {verb}", f"{verb} a study.")
    require_threads(options.threads)
    spec, folder, pool = open_study(options.study, options.out, options.pool, options.scale)
    part = None if options.part is None else parse_part(options.part)

    def make_plan(given_up: Collection[str] | None = None) -> StudyPlan:
        whole = plan_study(spec, pool, given_up)
        return whole if part is None else part_of(whole, *part)

    plan = make_plan()
    if verb == "plan":
        _plan(plan, pool, options)
        return 0
    if verb == "status":
        if options.watch and sys.stderr.isatty():  # later stages are planned while it is watched
            status = follow(lambda: study_status(make_plan(), pool))
        else:
            status = study_status(plan, pool)
        print_status(status, options.json)
        return 0
    if verb != "run" and not any(RunDirectory(pool / r.run_id).finished for r in plan.runs):
        raise DataError(
            f"no run of {options.study} has finished in {pool}",
            f"there is nothing to {verb}",
            f"ladderlm study run {options.study}, with the same --out and --pool",
        )
    failed: list[Outcome] = []
    # A second runner is refused before it lays its file over that of the first.
    with FolderLock(folder) if verb == "run" else contextlib.nullcontext():
        store_study(folder, options.study, spec)
    if verb == "run":
        print_plan(plan, pool)
        executor = make_executor(options.executor, folder / "executor", options.threads)
        plan, failed = carry_out(make_plan, folder, pool, executor)
    if part is not None:
        write_table(plan, folder, pool)
        print(f"{folder}: part {options.part} is done. When all are: ladderlm study merge DIR...")
        return 1 if failed else 0
    _show_fits(plan, folder, pool, options.json)
    if verb == "report":
        from ladderlm.report.render import write_report

        print(write_report(folder / "report", runs=[], studies=[folder], x=options.x))
    return 1 if failed else 0


def _plan(plan: StudyPlan, pool: Path, options: StudyOptions) -> None:
    """Print the plan, with times and memory found by trying some of it for a minute at most."""
    if options.no_probe:
        print_plan(plan, pool, options.json)
        return
    machine = LocalExecutor(options.threads)
    n_at_once = n_side_by_side(plan.settled, machine.room())
    shapes = len(probed_runs(plan))
    print(f"trying {shapes} shapes, {n_at_once} at once, for a minute at most", file=sys.stderr)
    busy, n_cores = count_busy_cores(seconds=1.0)  # over this second, not the last minute
    if n_cores - busy < machine.n_threads - SLACK_CORES:
        print(
            f"other work keeps about {busy:.1f} of {n_cores} cores busy: the times come out too "
            "long; plan again when it is idle",
            file=sys.stderr,
        )
    costs = predict_all(plan, probe(plan, n_at_once))

    def seconds_to_go(run: PlannedRun) -> float:
        over = not run.provisional and RunDirectory(pool / run.run_id).finished
        return 0.0 if over else costs[run.run_id].seconds

    expected = Expected(costs, n_at_once, wall_seconds(plan.runs, seconds_to_go, machine.room()))
    print_plan(plan, pool, options.json, expected)


def _show_fits(plan: StudyPlan, folder: Path, pool: Path, as_json: bool) -> None:
    fits = evaluate_study(plan, folder, pool)
    if as_json:
        print_json(fits)
    else:
        describe_fits(fits)


def _merge(options: MergeOptions) -> int:
    """Bring the runs of all parts into one pool and judge the whole."""
    if not options.parts:
        raise ConfigError("no DIR is named", "", "name the study folders of the parts")
    parts = [Path(part) for part in options.parts]
    specs = [read_stored_study(part) for part in parts]
    for part, spec in zip(parts, specs, strict=True):
        check_same_study(specs[0], spec, part)
    folder, pool = place_of(specs[0], options.out, options.pool)
    plan = plan_study(specs[0], pool)
    pools = [part / read_json(part / "study.json")["pool"] for part in parts]
    with FolderLock(folder):
        if folder.resolve() not in [part.resolve() for part in parts]:
            copy_stored_study(parts[0], folder)
        while True:  # the runs of one stage tell which are those of the next
            merged = merge_runs(plan, pool, pools)
            print(
                f"{folder}: {len(merged.copied)} runs copied, {len(merged.present)} were there",
                file=sys.stderr,
            )
            for run_id in merged.unfinished:
                print(f"run {run_id} has not ended in any part: left there", file=sys.stderr)
            before, plan = plan, plan_study(specs[0], pool)
            if plan.settled == before.settled:
                break
        _show_fits(plan, folder, pool, options.json)
    return 0


def open_study(
    file: str, out: str | None, pool: str | None, scale: str | None = None
) -> tuple[StudySpec, Path, Path]:
    """Read a study file; give it with its folder and its pool of runs."""
    spec = read_study(file, scale=scale)
    return spec, *place_of(spec, out, pool)


def place_of(spec: StudySpec, out: str | None, pool: str | None) -> tuple[Path, Path]:
    """Give the folder of a study and its pool of runs."""
    folder = Path(out) if out else Path("studies-out") / spec.name
    shared = pool or spec.pool
    return folder, Path(shared) if shared else folder / "runs"


def write_table(plan: StudyPlan, folder: Path, pool: Path) -> list[Row]:
    """Write results.csv and study.json; give the rows of the table."""
    rows = collect_results(plan, pool)
    write_results(folder / "results.csv", rows)
    publish_json(
        folder / "study.json",
        {
            "name": plan.spec.name,
            "question": plan.spec.question,
            "rationale": plan.spec.rationale,
            "arms": [vars(arm) for arm in plan.spec.arms],
            "ladder": vars(plan.spec.ladder),
            "warnings": [*plan.warnings, *mixed_origins(plan, pool)],
            "pool": os.path.relpath(pool, folder),
            "demonstration": plan.spec.demonstration,
        },
    )
    return rows


def evaluate_study(plan: StudyPlan, folder: Path, pool: Path) -> dict[str, Any]:
    """Write results.csv, forecast.json and fits.json; give the fits."""
    rows = write_table(plan, folder, pool)
    forecast = write_forecast(folder, plan.spec, rows)
    fits = analyse(plan.spec, rows, plan.tunings, pool) | {"forecast": forecast}
    fits["noise"] = seed_noise(rows, plan.spec.arms[0].name)
    budgets = plan.spec.ladder.flops
    fits["isoflop"] = best_sizes(rows, plan.spec.arms[0].name, budgets)
    fits["tuning"] = [tuning.to_json(budgets) for tuning in plan.tunings]
    fits["forecast_score"] = score_forecast(forecast, rows)
    if plan.found is not None:
        fits["search"] = plan.found.to_json()
        if plan.found.config is not None:
            publish_text(folder / "search.toml", to_toml(plan.found.config))
    publish_json(folder / "fits.json", fits)
    _draw_figures(folder, rows, fits)
    return fits


def _draw_figures(folder: Path, rows: list[dict[str, Any]], fits: dict[str, Any]) -> None:
    from ladderlm.report.drawing import draw_study, publish_figure

    study = read_json(folder / "study.json") | {"rows": rows, "fits": fits}
    for name, figure in draw_study(study | {"forecast": fits["forecast"]}).items():
        file = f"scaling-{name}" if name in AXES.values() else name
        publish_figure(folder / "figures" / file, figure)


def describe_fits(fits: dict[str, Any]) -> None:
    """Print the verdict of each variant with its numbers."""
    if "problem" in fits:
        print(fits["problem"])
    for reason in sorted(set(fits["excluded"].values())):
        count = list(fits["excluded"].values()).count(reason)
        print(f"excluded: {count} runs: {reason}")
    describe_search(fits.get("search"))
    for judged in fits["variants"]:
        if "problem" in judged:
            print(f"{judged['variant']}: {judged['problem']}")
            continue
        print(f"{judged['variant']}: {judged['verdict']['text']}")
        print(f"  {judged['verdict']['reason']}")
        for rung in judged["comparison"]["rungs"]:
            m = rung["estimate"]
            shown = rung["censored"] or f"{m['value']:.3f}"
            flag = "  (beyond the baseline's range)" if rung["extrapolated"] else ""
            print(
                f"  rung {rung['rung'] + 1}: {format_flops(rung['x'])}  m = {shown} "
                f"(95 % {m['low_95']:.3f} to {m['high_95']:.3f}){flag}"
            )
        for length, m in judged.get("lengths", {}).items():
            if "problem" not in m:
                print(
                    f"  runs of length {length} alone: m = {m['value']:.3f} "
                    f"(95 % {m['low_95']:.3f} to {m['high_95']:.3f})"
                )
        rates = judged["comparison"].get("rate_error", 0.0)
        if rates:
            print(f"  learning rates: {rates:.3f} is their part of the error of the pooled ln m")
        documents = judged.get("documents", {})
        if "low_95" in documents:
            print(
                f"  other documents: pooled m 95 % {documents['low_95']:.3f} to "
                f"{documents['high_95']:.3f} ({documents['n_documents']} drawn again, models held)"
            )
