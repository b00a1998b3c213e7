"""`ladderlm profile`: show where a training step spends its time."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ladderlm.bench.config import ProfileConfig
from ladderlm.cli.options import parse, print_json
from ladderlm.machine import find_device
from ladderlm.text import visible
from ladderlm.units import format_seconds

if TYPE_CHECKING:
    from ladderlm.bench.step import Workload

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(ProfileConfig):
    """Show where a training step spends its time: a table, and a trace file."""

    run: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """Run whose model, rows and update rule to use. Default: those of --shape."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = "trace.json"
    """Trace file to write, for chrome://tracing or Perfetto."""
    json: bool = False
    """Print the results as JSON."""


def run(argv: list[str]) -> int:
    """Record some updates and print the table."""
    options = parse(ProfileOptions, argv, "profile")
    find_device(options.device)
    import torch

    from ladderlm.bench.profile import profile_steps
    from ladderlm.bench.step import build

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    update = build(options.way, _workload(options)).update
    found = profile_steps(update, options.steps, options.device, Path(options.out))
    if options.json:
        print_json(found | {"trace": options.out})
    else:
        _print_times(found, options.out)
    return 0


def _workload(options: ProfileOptions) -> "Workload":
    from dataclasses import replace

    from ladderlm.bench.step import SHAPES, Workload
    from ladderlm.run.directory import RunDirectory

    if options.run is None:
        return replace(SHAPES[options.shape], device=options.device)
    config = RunDirectory(options.run).config()
    n_rows = config.execution.micro_batch_seqs or config.global_batch_seqs
    masked = config.data.mask_documents
    return Workload(config.model, config.data.seq_len, n_rows, config.optim, masked, options.device)


def _print_times(found: dict[str, Any], trace: str) -> None:
    print(f"{format_seconds(found['seconds'])} of operations an update; trace in {trace}\n")
    for title, rows in (("kind", found["kinds"]), ("operation", found["operations"])):
        print(f"{title:<44} {'share':>6} {'ms':>9} {'calls':>7}")
        for row in rows:
            name = visible(row["name"])[:44]
            print(
                f"{name:<44} {row['share']:>6.1%} {row['seconds'] * 1e3:>9.2f} {row['calls']:>7.0f}"
            )
        print()
