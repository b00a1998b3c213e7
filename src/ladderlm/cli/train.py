"""`ladderlm train`: one run, on one process or under torchrun."""

import logging
import os
import sys
from dataclasses import replace
from typing import Any

from ladderlm.cli.options import parse, print_json, progress_bar
from ladderlm.config import from_dict, read_config_file, replace_at, to_dict
from ladderlm.dist import is_first_process
from ladderlm.errors import ConfigError
from ladderlm.run.directory import RunDirectory
from ladderlm.run.presets import PRESETS, preset
from ladderlm.train.run_config import RunConfig
from ladderlm.units import format_bytes, format_count, format_flops, format_seconds

__all__ = ["read_base", "run"]

_OWN = ("--config", "--preset", "--data", "--out", "--resume", "--device")


def run(argv: list[str]) -> int:
    """Train as asked."""
    own, rest, as_json = _split(argv)
    base = read_base(own.get("--config"), own.get("--preset"))
    if "--data" in own:
        base = replace(base, data=replace(base.data, path=own["--data"]))
    if "--out" in own:
        base = replace(base, out=own["--out"])
    if "--device" in own:
        base = replace_at(base, "execution.device", own["--device"])
    description = (
        "Train one model. --config FILE (TOML, or a run's config.json) or --preset "
        f"{'|'.join(PRESETS)} is the base; --data DIR, --out DIR, --device auto|cpu|cuda and "
        "--resume auto|never|must come on top, and every option below."
    )
    config = parse(RunConfig, rest, "train", description, base, flags=False)
    config = from_dict(RunConfig, to_dict(config))  # refuses nan and inf, which the parser takes
    resume = own.get("--resume", "auto")
    if resume not in ("auto", "never", "must"):
        raise ConfigError(f"--resume {resume!r}", "it is one of auto, never, must")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    from ladderlm.run.execute import execute
    from ladderlm.run.resolve import resolve

    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if is_first_process():
        _print_plan(resolve(config, world_size))
    with progress_bar("steps", config.train.n_steps) as bar:

        def observe(row: dict[str, Any]) -> None:
            bits = f" {row['bits_per_byte']:.3f} bits/byte" if "bits_per_byte" in row else ""
            bar(row["step"], f"{row['kind']} loss {row['loss']:.3f}{bits}")

        folder = execute(config, resume, observe)  # type: ignore[arg-type]
    if is_first_process():
        _print_result(RunDirectory(folder), as_json)
    return 0


def _split(argv: list[str]) -> tuple[dict[str, str], list[str], bool]:
    """Take the command's own options out of the line; the rest belongs to the config."""
    own: dict[str, str] = {}
    rest: list[str] = []
    words = [word for word in argv if word != "--json"]
    at = 0
    while at < len(words):
        name, equals, value = words[at].partition("=")
        if name in _OWN:
            if not equals:
                if at + 1 == len(words):
                    raise ConfigError(f"{name} needs a value", "", "see `ladderlm train --help`")
                at, value = at + 1, words[at + 1]
            own[name] = value
        else:
            rest.append(words[at])
        at += 1
    return own, rest, "--json" in argv


def read_base(config_file: str | None, preset_name: str | None) -> RunConfig:
    """Give the config that options are laid over.

    Raises:
        ConfigError: both are given, or one of them is unknown or broken.
    """
    if config_file and preset_name:
        raise ConfigError("--config and --preset are both given", "", "keep one of them")
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
    shown = f"{format_count(params.total)} parameters ({format_count(params.n_matmul)} in products)"
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
            f"{timing['tokens_per_second']:,.0f} tokens/s, {timing['mfu']:.0%} of the peak of "
            f"matrix products; waiting for data {timing['data_wait_fraction']:.1%}, logging and "
            f"saving {timing['aside_fraction']:.1%} of the time; peak memory "
            f"{format_bytes(timing['peak_memory_bytes'])}; first step after "
            f"{format_seconds(timing['seconds_to_first_step'])}"
        )
