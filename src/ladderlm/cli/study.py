"""`ladderlm study`: plan, run, status, fit, report."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, print_json
from ladderlm.errors import ConfigError
from ladderlm.executors.base import Outcome, State
from ladderlm.executors.local import LocalExecutor
from ladderlm.files import FolderLock, publish_json, read_json
from ladderlm.run.directory import RunDirectory
from ladderlm.study.analysis import analyse, write_forecast
from ladderlm.study.launch import launch, pending_runs
from ladderlm.study.plan import PlannedRun, StudyPlan, plan_study
from ladderlm.study.results import collect_results, write_results
from ladderlm.study.spec import StudySpec, read_study, store_study
from ladderlm.units import format_count, format_flops

__all__ = ["carry_out", "describe_fits", "evaluate_study", "open_study", "run"]

_VERBS = ("plan", "run", "status", "fit", "report")


@dataclass(frozen=True)
class StudyOptions:
    """An ablation over a ladder of compute."""

    study: Annotated[str, tyro.conf.Positional]
    """Study file (TOML)."""
    out: str | None = None
    """Study folder. Default: studies-out/NAME."""
    pool: str | None = None
    """Folder of runs shared by studies. Default: the study folder's runs."""
    threads: int | None = None
    """Cores to fill. Default: all."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print as JSON (plan, status, fit)."""


def run(argv: list[str]) -> int:
    """Do as asked."""
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help"):
        print(f"usage: ladderlm study {{{','.join(_VERBS)}}} STUDY.toml [--out DIR] [--pool DIR]")
        return 0
    if verb not in _VERBS:
        raise ConfigError(f"unknown verb {verb!r}", "", f"use one of {', '.join(_VERBS)}")
    options = parse(StudyOptions, argv[1:], f"study {verb}", f"{verb} a study.")
    spec, folder, pool = open_study(options.study, options.out, options.pool)
    plan = plan_study(spec, pool)
    if verb == "plan":
        _print_plan(plan, pool, options.json)
        return 0
    if verb == "status":
        return _print_status(plan, pool, options.json)
    failed: list[Outcome] = []
    store_study(folder, options.study, spec)
    if verb == "run":
        _print_plan(plan, pool, False)
        failed = carry_out(plan, folder, pool, options.threads)
    fits = evaluate_study(plan, folder, pool)
    if options.json:
        print_json(fits)
    else:
        describe_fits(fits)
    if verb == "report":
        from ladderlm.report.render import write_report

        print(write_report(folder / "report", runs=[], studies=[folder]))
    return 1 if failed else 0


def open_study(file: str, out: str | None, pool: str | None) -> tuple[StudySpec, Path, Path]:
    """Read a study file; give it with its folder and its pool of runs."""
    spec = read_study(file)
    folder = Path(out) if out else Path("studies-out") / spec.name
    shared = pool or spec.pool
    return spec, folder, Path(shared) if shared else folder / "runs"


def carry_out(
    plan: StudyPlan, folder: Path, pool: Path, n_threads: int | None = None
) -> list[Outcome]:
    """Run what is not finished; give the runs that failed."""
    with FolderLock(folder):
        n_all = len({planned.run_id for planned in plan.runs})
        n_done = n_all - len(pending_runs(plan, pool))
        if n_done:
            print(f"{n_done} of {n_all} runs are finished already", file=sys.stderr)

        def on_change(planned: PlannedRun, state: State) -> None:
            nonlocal n_done
            n_done += state is State.DONE
            if state in (State.DONE, State.FAILED):
                label = f"{planned.arm}, rung {planned.rung.index + 1}, seed {planned.seed}"
                summary = RunDirectory(pool / planned.run_id).summary() or {}
                found = summary.get("evals", {}).get(planned.config.eval.split, {}).get("last", {})
                shown = f"{found['bits_per_byte']:.4f} bits/byte" if found else state.value
                print(f"[{n_done}/{n_all}] {label}: {shown}", file=sys.stderr, flush=True)

        outcomes = launch(plan, pool, LocalExecutor(n_threads), on_change)
    failed = [outcome for outcome in outcomes if outcome.state is State.FAILED]
    for outcome in failed:
        print(
            f"run {outcome.job.name} failed with exit code {outcome.exit_code} after "
            f"{outcome.n_tries} tries; see {outcome.job.log}",
            file=sys.stderr,
        )
    return failed


def evaluate_study(plan: StudyPlan, folder: Path, pool: Path) -> dict[str, Any]:
    """Write results.csv, forecast.json and fits.json; give the fits."""
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
            "warnings": list(plan.warnings),
            "pool": os.path.relpath(pool, folder),
            "demonstration": plan.spec.demonstration,
        },
    )
    forecast = write_forecast(folder, plan.spec, rows)
    fits = analyse(plan.spec, rows) | {"forecast": forecast}
    publish_json(folder / "fits.json", fits)
    _draw_figures(folder, rows, fits)
    return fits


def _draw_figures(folder: Path, rows: list[dict[str, Any]], fits: dict[str, Any]) -> None:
    from ladderlm.report.render import draw_study, publish_figure

    study = read_json(folder / "study.json") | {"rows": rows, "fits": fits}
    for x, figure in draw_study(study).items():
        publish_figure(folder / "figures" / f"scaling-{x}", figure)


def _print_plan(plan: StudyPlan, pool: Path, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "run_id": planned.run_id,
            "arm": planned.arm,
            "rung": planned.rung.index + 1,
            "seed": planned.seed,
            "dim": planned.config.model.dim,
            "n_layers": planned.config.model.n_layers,
            "n_matmul": planned.rung.n_matmul,
            "n_tokens": planned.rung.n_tokens,
            "n_steps": planned.rung.n_steps,
            "global_batch_tokens": planned.rung.global_batch_tokens,
            "flops": planned.rung.flops,
            "finished": RunDirectory(pool / planned.run_id).finished,
        }
        for planned in plan.runs
    ]
    if as_json:
        print_json({"runs": rows, "flops": plan.flops, "warnings": list(plan.warnings)})
        return
    print(f"study {plan.spec.name}: {len(rows)} runs, {format_flops(plan.flops)}", file=sys.stderr)
    print(
        f"  {'run':<12} {'arm':<14} rung seed {'shape':>9} {'N':>7} {'tokens':>7} {'steps':>6} "
        f"{'batch':>6} {'FLOPs':>9}",
        file=sys.stderr,
    )
    for row in rows:
        print(
            f"  {row['run_id']:<12} {row['arm']:<14} {row['rung']:>4} {row['seed']:>4} "
            f"{row['dim']:>5}x{row['n_layers']:<3} {format_count(row['n_matmul']):>7} "
            f"{format_count(row['n_tokens']):>7} {row['n_steps']:>6,} "
            f"{row['global_batch_tokens']:>6,} {row['flops']:>9.2e}"
            + ("  finished" if row["finished"] else ""),
            file=sys.stderr,
        )
    for warning in plan.warnings:
        print(f"  warning: {warning}", file=sys.stderr)


def _print_status(plan: StudyPlan, pool: Path, as_json: bool) -> int:
    rows = []
    for planned in plan.runs:
        directory = RunDirectory(pool / planned.run_id)
        trained = directory.metrics("train")
        summary = directory.summary()
        status = summary["status"] if summary else "not started"
        step = trained[-1]["step"] if trained else 0
        rows.append(
            {"run_id": planned.run_id, "arm": planned.arm, "rung": planned.rung.index + 1}
            | {"seed": planned.seed, "status": status, "step": step}
            | {"n_steps": planned.rung.n_steps}
        )
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        print(
            f"{row['run_id']:<12} {row['arm']:<14} rung {row['rung']} seed {row['seed']} "
            f"{row['step']:>7,} of {row['n_steps']:>7,}  {row['status']}"
        )
    return 0


def describe_fits(fits: dict[str, Any]) -> None:
    """Print the verdict of each variant with its numbers."""
    if "problem" in fits:
        print(fits["problem"])
    for reason in sorted(set(fits["excluded"].values())):
        count = list(fits["excluded"].values()).count(reason)
        print(f"excluded: {count} runs: {reason}")
    for judged in fits["variants"]:
        if "problem" in judged:
            print(f"{judged['variant']}: {judged['problem']}")
            continue
        print(f"{judged['variant']}: {judged['verdict']['text']}")
        print(f"  {judged['verdict']['reason']}")
        for rung in judged["comparison"]["rungs"]:
            m = rung["estimate"]
            flag = "  (beyond the baseline's range)" if rung["extrapolated"] else ""
            print(
                f"  rung {rung['rung'] + 1}: {format_flops(rung['x'])}  m = {m['value']:.3f} "
                f"(95 % {m['low_95']:.3f} to {m['high_95']:.3f}){flag}"
            )
