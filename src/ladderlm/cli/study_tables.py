"""Print the plan and the runs of a study."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ladderlm.cli.options import print_json
from ladderlm.run.directory import RunDirectory
from ladderlm.scaling.statistical_power import design_power
from ladderlm.study.cost import Cost
from ladderlm.study.ladder import name_rung
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planner import PlannedRun
from ladderlm.study.search import SearchResult
from ladderlm.study.status import StudyStatus, early_losses
from ladderlm.text import visible
from ladderlm.units import format_bytes, format_count, format_flops, format_seconds

__all__ = [
    "Expected",
    "follow",
    "live_table",
    "print_line",
    "print_plan",
    "print_search",
    "print_status",
]

REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Expected:
    """Predicted cost of a plan on this machine.

    Args:
        costs: by run id.
        n_at_once: number of concurrent runs.
        seconds_to_go: until the last run ends.
    """

    costs: Mapping[str, Cost]
    n_at_once: int
    seconds_to_go: float


def print_plan(
    plan: StudyPlan, pool: Path, as_json: bool = False, expected: Expected | None = None
) -> None:
    """Print every run of a plan, its totals and its warnings.

    Args:
        expected: None: nothing was measured, so nothing is predicted.
    """
    costs = expected.costs if expected else {}
    rows = [_plan_row(planned, pool, costs) for planned in plan.runs]
    differences = {arm.name: plan.differences(arm.name) for arm in plan.spec.arms[1:]}
    timing = _add_up(rows, expected) if expected else None
    ladder = plan.spec.ladder
    power = design_power([len(ladder.seeds_of(i)) for i in range(len(ladder.flops))])
    if as_json:
        printed = {"runs": rows, "flops": plan.flops, "flops_alone": plan.flops_alone}
        printed |= {"warnings": list(plan.warnings), "differences": differences}
        print_json(printed | {"power": power, "timing": timing})
        return
    alone = plan.flops_alone
    saved = f"; {format_flops(alone)} if each run were trained alone" if alone > plan.flops else ""
    print_line(f"study {plan.spec.name}: {len(rows)} runs, {format_flops(plan.flops)}{saved}")
    print_line(
        f"  {'run':<12} {'arm':<14} rung seed {'shape':>9} {'N':>7} {'tokens':>7} {'steps':>6} "
        f"{'batch':>6} {'FLOPs':>9}" + (f" {'time':>7} {'memory':>7}" if costs else "")
    )
    for row in rows:
        line = (
            f"  {row['run_id']:<12} {row['arm']:<14} {row['rung']:>4} {row['seed']:>4} "
            f"{row['dim']:>5}x{row['n_layers']:<3} {format_count(row['n_matmul']):>7} "
            f"{format_count(row['n_tokens']):>7} {row['n_steps']:>6,} "
            f"{row['global_batch_tokens']:>6,} {row['flops']:>9.2e}"
        )
        if costs:
            line += f" {format_seconds(row['timing']['seconds']):>7}"
            line += f" {format_bytes(row['memory_bytes']):>7}"
        line += "" if row["role"] == "ladder" else f"  {row['role']}"
        line += "" if len(ladder.branches) == 1 else f"  {row['branch']:g}x"
        line += f" from step {row['shared_steps']:,} of {row['trunk']}" if row["trunk"] else ""
        line += "  not chosen yet" if row["learning_rate"] is None else ""
        print_line(line + ("  finished" if row["finished"] else ""))
    if timing is not None:
        for arm, hours in timing["device_hours"].items():
            print_line(f"  {arm}: {hours:.3g} device-hours")
        print_line(
            f"  remaining: {format_seconds(timing['seconds_to_go'])} with {timing['n_at_once']} "
            f"concurrent runs; all runs one after another: {format_seconds(timing['seconds'])}, as "
            "measured on this machine"
        )
    print_line(_describe_power(power))
    for line in [f"{arm} changes {line}" for arm, lines in differences.items() for line in lines]:
        print_line(f"  {line}")
    for warning in plan.warnings:
        print_line(f"  warning: {warning}")


def _describe_power(power: Mapping[str, float]) -> str:
    """Return the gain in compute that the design detects, and the noise that is assumed."""
    if power["detects_95"] == float("inf"):
        return "  power: no gain can be detected: an interval needs at least two rungs"
    return (
        f"  power: detects a gain of {power['detects_80'] - 1:.1%} of compute with 80 %, of "
        f"{power['detects_95'] - 1:.1%} with 95 % (if seeds differ by {power['seed_sd']:.2%} of "
        f"the loss, mistuned rungs by {power['rung_sd']:.2%})"
    )


def _plan_row(planned: PlannedRun, pool: Path, costs: Mapping[str, Cost]) -> dict[str, Any]:
    sizes = ("n_matmul", "n_tokens", "n_steps", "global_batch_tokens", "flops")
    row = {
        "run_id": planned.run_id,
        "arm": planned.arm,
        "role": planned.role,
        "rung": planned.rung.index + 1,
        "branch": planned.rung.branch,
        "trunk": planned.trunk,
        "shared_steps": planned.shared_steps,
        "seed": planned.seed,
        "learning_rate": None if planned.provisional else planned.config.optim.learning_rate,
        "dim": planned.config.model.dim,
        "n_layers": planned.config.model.n_layers,
        **{name: getattr(planned.rung, name) for name in sizes},
        "flops_to_spend": planned.flops_to_spend,
        "finished": not planned.provisional and RunDirectory(pool / planned.run_id).finished,
    }
    if costs:
        cost = costs[planned.run_id]
        row["memory_bytes"] = cost.memory_bytes
        row["timing"] = {"seconds": cost.seconds, "device_seconds": cost.device_seconds}
    return row


def _add_up(rows: Sequence[dict[str, Any]], expected: Expected) -> dict[str, Any]:
    """Return the predictions per arm, in total, and until the last missing run ends."""
    hours: Counter[str] = Counter()
    for row in rows:
        hours[row["arm"]] += row["timing"]["device_seconds"] / 3600
    return {
        "device_hours": dict(hours),
        "seconds": sum(row["timing"]["seconds"] for row in rows),
        "seconds_to_go": expected.seconds_to_go,
        "n_at_once": expected.n_at_once,
    }


def print_line(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def print_status(status: StudyStatus, as_json: bool) -> None:
    """Print the state of every run, the losses so far and the remaining time."""
    rows = [
        {"run_id": row.run.run_id, "arm": row.run.arm, "rung": row.run.rung.index + 1}
        | {"branch": row.run.rung.branch, "trunk": row.run.trunk}
        | {"seed": row.run.seed, "status": row.status, "step": row.step}
        | {"n_steps": row.run.rung.n_steps, "bits_per_byte": row.bits_per_byte}
        | {"reason": row.reason, "timing": {"remaining_seconds": row.remaining_seconds}}
        for row in status.runs
    ]
    if as_json:
        timing = {"remaining_seconds": status.remaining_seconds}
        early_rows = [asdict(early) for early in early_losses(status)]
        print_json({"runs": rows, "early_losses": early_rows, "timing": timing})
        return
    for row, run in zip(rows, status.runs, strict=True):
        loss = "" if row["bits_per_byte"] is None else f"  {row['bits_per_byte']:.4f} bits/byte"
        reason = f": {visible(str(row['reason']), keep='')}" if row["reason"] else ""
        place = name_rung(run.run.rung.index, run.run.rung.branch)
        print(
            f"{row['run_id']:<12} {row['arm']:<14} rung {place} seed {row['seed']} "
            f"{row['step']:>7,} of {row['n_steps']:>7,}  {row['status']}{reason}{loss}"
        )
    for early in early_losses(status):
        if early.bits_per_byte is not None:
            print(
                f"rung {name_rung(early.rung - 1, early.branch)}  {early.arm:<14} "
                f"{early.bits_per_byte:.4f} bits/byte, "
                f"mean of {early.n_finished} of {early.n_runs} runs"
            )
    print(_headline(status))


def _headline(status: StudyStatus) -> str:
    """Return one line with the progress and the remaining time."""
    done = f"{status.n_finished} of {len(status.runs)} runs are finished"
    if status.over:
        return done
    if status.remaining_seconds is None:
        return f"{done}; the remaining time is known once a run has logged its speed"
    return f"{done}; about {format_seconds(status.remaining_seconds)} remaining"


def print_search(found: SearchResult) -> None:
    """Print the trials of a search: rung by rung, the best first."""
    for trial in found.rows:
        loss = trial.bits_per_byte
        shown = "failed" if loss is None else f"{loss:.4f} bits/byte"
        options = ", ".join(f"{name} = {value}" for name, value in trial.options.items())
        best = "  best" if trial == found.best else ""
        print(f"search: rung {trial.rung}  {shown}  {visible(options, keep='')}{best}")
    for name in found.edges:
        print(f"search: the best {name} is at the edge of its values; a better one may be beyond")


def follow(look: Callable[[], StudyStatus]) -> StudyStatus:
    """Show a live table until all runs have ended; return the last status."""
    status = look()
    with live_table(lambda: status):
        while not status.over:
            time.sleep(REFRESH_SECONDS)
            status = look()
    return status


@contextlib.contextmanager
def live_table(look: Callable[[], StudyStatus]) -> Iterator[None]:
    """Keep a table of the study at the bottom of a terminal; elsewhere show nothing."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    with Live(
        get_renderable=lambda: _table(look()),
        console=Console(stderr=True),
        refresh_per_second=1 / REFRESH_SECONDS,
    ):
        yield


def _table(status: StudyStatus) -> Any:
    """Return a table with one row per rung and arm: progress, states, loss so far."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(_headline(status)), title_justify="left", expand=False)
    for name in ("rung", "arm", "finished", "running", "failed", "steps", "bits/byte", "remaining"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for early in early_losses(status):
        rows = [
            row
            for row in status.runs
            if (row.run.rung.index + 1, row.run.rung.branch, row.run.arm)
            == (early.rung, early.branch, early.arm)
        ]
        count = [row.status for row in rows].count
        steps = sum(row.step for row in rows) / sum(row.run.rung.n_steps for row in rows)
        left = [row.remaining_seconds for row in rows]
        known = None if None in left else sum(seconds or 0.0 for seconds in left)
        loss = early.bits_per_byte
        table.add_row(
            name_rung(early.rung - 1, early.branch),
            Text(visible(early.arm, keep="")),
            f"{early.n_finished} of {early.n_runs}",
            str(count("running")),
            str(count("failed")),
            f"{steps:.0%}",
            "" if loss is None else f"{loss:.4f}",
            "" if known is None else format_seconds(known),
        )
    return table
