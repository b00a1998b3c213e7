"""`ladderlm bench`: compare a training step with other code and with this machine's peak."""

from dataclasses import dataclass
from typing import Any

from ladderlm.bench.config import BenchConfig
from ladderlm.cli.options import parse, print_json
from ladderlm.machine import describe_hardware, find_device
from ladderlm.units import format_count, format_flops

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class BenchOptions(BenchConfig):
    """Compare the speed of a training step with other code and with the machine's peak.

    The ways take turns, and ratios are relative to the first one.
    """

    json: bool = False
    """Print the results as JSON."""


def run(argv: list[str]) -> int:
    """Measure and print one table."""
    options = parse(BenchOptions, argv, "bench")
    import os
    from dataclasses import replace

    import torch

    from ladderlm.bench.step import SHAPES, compare_ways, describe
    from ladderlm.model.accounting import count_params
    from ladderlm.optim.config import OptimConfig
    from ladderlm.run.resolve import resolve_precision

    find_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    work = replace(
        SHAPES[options.shape],
        optim=OptimConfig(name=options.optimizer),
        mask_documents=options.mask_documents,
        device=options.device,
    )
    ways = "gpt,llama,ours-plain,ours"
    if resolve_precision("auto", options.device) == "bf16":
        ways += ",gpt-autocast-compiled,llama-autocast-compiled,ours-bf16,ours-bf16-compiled"
    names = list(dict.fromkeys((options.ways or ways).split(",")))
    found, ceilings = compare_ways(names, work, options.rounds)
    rows = describe(found, ceilings, work)
    head = {
        "shape": options.shape,
        "n_params": count_params(work.model).total,
        "n_tokens": work.n_tokens,
        "flops": work.flops,
        "mask_documents": options.mask_documents,
        "optimizer": options.optimizer,
        "hardware": describe_hardware(options.device),
        "n_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    if options.json:
        print_json(head | {"ways": rows})
    else:
        _print_speeds(head, rows)
    return 0


def _print_speeds(head: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print(
        f"{head['shape']}: {format_count(head['n_params'])} parameters, {head['n_tokens']:,} "
        f"tokens and {format_flops(head['flops'])} a step (3 x forward, causal attention), "
        f"{head['n_threads']} threads, torch {head['torch']}, {head['hardware']}"
    )
    if (head["load_average"] or 0) > 0.5:
        print(f"load average {head['load_average']:.1f}: other programs slow this down")
    print(
        f"{'way':<24} {'tokens/s':>9} {'range':>15} {'x first':>8} {'by CPU':>7} {'CPU/wall':>9} "
        f"{'FLOP/s':>14} {'of ceiling':>11} {'first step':>11} {'loss':>8}"
    )
    for row in rows:
        spread = f"{row['slowest']:,.0f}-{row['fastest']:,.0f}"
        print(
            f"{row['way']:<24} {row['tokens_per_second']:>9,.0f} {spread:>15} "
            f"{row['times_first']:>8.2f} {row['times_first_cpu']:>7.2f} "
            f"{row['cpu_over_wall']:>9.2f} {format_flops(row['flops_per_second']):>12}/s "
            f"{row['of_ceiling']:>11.0%} {row['first_step_seconds']:>9.1f} s {row['loss']:>8.4f}"
        )
    print("x first: median of ratios over rounds, above 1 is faster; by CPU: of CPU time")
