"""`ladderlm train`: train or resume a run, in one process or under torchrun."""

import argparse
import logging
import os
import sys
from dataclasses import dataclass, fields
from typing import Literal

from ladderlm.cli.options import parse, print_json, training_bar
from ladderlm.config import from_dict, read_config_file, to_dict
from ladderlm.data.config import DataConfig
from ladderlm.dist import is_first_process
from ladderlm.errors import ConfigError
from ladderlm.run.directory import RunDirectory
from ladderlm.run.presets import preset
from ladderlm.training.config import ExecutionConfig
from ladderlm.training.run_config import RunConfig
from ladderlm.units import format_bytes, format_count, format_flops, format_seconds

__all__ = ["run"]

_SHORT = {(DataConfig, "path"): "--data", (ExecutionConfig, "device"): "--device"}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunConfig):
    """Train a model, or resume one.

    --config or --preset sets all options at once, and every option below replaces one of them.
    """

    config: str | None = None
    """Config file to start from: TOML, or the config.json of a run."""
    preset: str | None = None
    """Named config to start from: llama, llama-5m, llama-124m, llama-paper, or a published model
    such as llama-2-7b."""
    resume: Literal["auto", "never", "must"] = "auto"
    """What to do with a run that is already in the folder. auto: resume it from its newest
    checkpoint. never: delete it and start again. must: resume it, and fail if it has no
    checkpoint."""
    json: bool = False
    """Print the summary as JSON."""


def run(argv: list[str]) -> int:
    """Train a model, or resume one."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--config", "--preset"):
        first.add_argument(name, nargs="?")
    named = vars(first.parse_known_args(argv)[0])
    base = _base_config(named["config"], named["preset"])
    sections = [field.name for field in fields(RunConfig)]
    under = TrainOptions(**{name: getattr(base, name) for name in sections})
    options = parse(TrainOptions, argv, "train", base=under, aliases=_SHORT)
    # Read again, which refuses NaN and infinity.
    config = from_dict(RunConfig, {name: to_dict(getattr(options, name)) for name in sections})
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    from ladderlm.run.execute import execute
    from ladderlm.run.resolve import resolve

    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if is_first_process():
        _print_plan(resolve(config, world_size))
    with training_bar(config.train.n_steps) as observe:
        folder = execute(config, options.resume, observe)
    if is_first_process():
        _print_result(RunDirectory(folder), options.json)
    return 0


def _base_config(config_file: str | None, preset_name: str | None) -> RunConfig:
    """Return the config whose values options replace."""
    if config_file and preset_name:
        raise ConfigError("--config cannot be combined with --preset", fix="leave one of them out")
    if preset_name:
        return preset(preset_name)
    if config_file:
        return from_dict(RunConfig, read_config_file(config_file), config_file)
    return RunConfig()


def _print_plan(config: RunConfig) -> None:
    from ladderlm.model.accounting import count_params, train_flops_per_token

    params = count_params(config.model)
    n_tokens = config.positions_after(config.train.n_steps)
    flops = train_flops_per_token(config.model, config.data.seq_len) * n_tokens
    shown = f"{format_count(params.total)} parameters ({format_count(params.n_matmul)} in matrices)"
    print(
        f"run {config.run_id}: {shown}, {config.train.n_steps:,} steps of "
        f"{config.train.global_batch_tokens:,} tokens = {format_count(n_tokens)} tokens, "
        f"{format_flops(flops)}, on {config.execution.device} with "
        f"{config.execution.n_threads} threads -> {config.out or 'runs/' + config.run_id}",
        file=sys.stderr,
    )


def _print_result(directory: RunDirectory, as_json: bool) -> None:
    summary = directory.summary() or {}
    if as_json:
        print_json(summary)
        return
    for split, found in summary["evals"].items():
        for which, row in found.items():
            print(
                f"{split} ({which}, step {row['step']}): {row['bits_per_byte']:.4f} bits/byte, "
                f"loss {row['loss']:.4f} over {row['n_documents']:,} documents"
            )
    timing = summary["timing"]
    print(f"{directory.path}: {summary['n_steps']:,} steps in {format_seconds(timing['seconds'])}")
    if "mfu" in timing:
        print(
            f"{timing['tokens_per_second']:,.0f} tokens/s, {timing['mfu']:.0%} of the peak FLOP/s; "
            f"waiting for data {timing['data_wait_fraction']:.1%}, logging and saving "
            f"{timing['aside_fraction']:.1%} of the time; peak memory "
            f"{format_bytes(timing['peak_memory_bytes'])}; first step after "
            f"{format_seconds(timing['seconds_to_first_step'])}"
        )
