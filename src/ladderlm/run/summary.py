"""The size, compute and time of a run, from its config and its metrics.

Owns the fixed part of `summary.json`. Imports no torch.
"""

import statistics
from typing import Any

from ladderlm.model.accounting import count_params, train_flops_6nd, train_flops_per_token
from ladderlm.run.directory import RunDirectory
from ladderlm.training.run_config import RunConfig

__all__ = ["describe_run"]

_PARAMS = ("total", "matrices", "head", "embedding", "norms", "n_matmul")


def describe_run(config: RunConfig, directory: RunDirectory, step: int) -> dict[str, Any]:
    """Return identity, size, compute and time of a run after `step` updates.

    `device_seconds` is the median time per position times positions and devices, so a pause of the
    machine does not count as compute.
    """
    params = count_params(config.model)
    environment = directory.environment()
    n_positions = config.positions_after(step)
    timings = [row["timing"] for row in directory.metrics("train")]
    seconds = statistics.median(t["step_seconds"] for t in timings) if timings else 0.0
    rate = statistics.median(t["tokens_per_second"] for t in timings) if timings else None
    world_size = int(environment.get("world_size", 1))
    return {
        "run_id": config.run_id,
        "meaning_hash": config.meaning_hash,
        "numerics_version": config.numerics_version,
        "data_fingerprint": config.data.fingerprint,
        "n_params": {name: getattr(params, name) for name in _PARAMS},
        "n_steps": step,
        "n_positions": n_positions,
        "flops": train_flops_per_token(config.model, config.data.seq_len) * n_positions,
        "flops_6nd": train_flops_6nd(config.model, n_positions),
        "hardware": environment.get("hardware"),
        "n_threads": environment.get("n_threads"),
        "world_size": world_size,
        "timing": {
            "median_step_seconds": seconds,
            "device_seconds": n_positions / rate * world_size if rate else 0.0,
            "tokens_per_second": rate,
            **_speed(timings),
        },
    }


def _speed(timings: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return medians of utilisation, shares of time and extremes of the logged steps.

    Keys that no row has, such as rows of older versions, are left out.
    """

    def seen(name: str) -> list[float]:
        return [row[name] for row in timings if row.get(name) is not None]

    found: dict[str, float | None] = {
        name: statistics.median(seen(name))
        for name in ("mfu", "mfu_datasheet", "hfu")
        if seen(name)
    }
    if waits := seen("data_wait_seconds"):
        found["data_wait_fraction"] = sum(waits) / sum(seen("step_seconds"))
    if peaks := seen("peak_memory_bytes"):
        found["peak_memory_bytes"] = max(peaks)
    if firsts := seen("seconds_to_first_step"):
        found["seconds_to_first_step"] = firsts[-1]
    if asides := seen("aside_seconds"):
        found["aside_fraction"] = asides[-1] / (timings[-1]["seconds"] + asides[-1])
    return found
