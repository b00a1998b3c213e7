"""`python -m ladderlm.bench.probe REQUEST.json OUT.json`: measure the parts of short runs.

Owns the timing of short real runs, from which `study plan` predicts the cost of long ones.
"""

import itertools
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ladderlm.config import from_dict
from ladderlm.eval.meter import head_documents
from ladderlm.files import publish_json, read_json
from ladderlm.model.accounting import train_flops_per_token
from ladderlm.run.execute import execute
from ladderlm.run.resolve import open_splits
from ladderlm.training.run_config import RunConfig
from ladderlm.training.throughput import peak_memory_bytes

__all__ = ["measure", "measure_all"]

STEP_SECONDS = 3.0  # of training in one short run
MIN_STEPS, MAX_STEPS = 4, 24
N_WARM_UP = 2  # first steps, not measured
EVAL_BATCHES = 6  # length of a validation in a short run, in training batches


def measure_all(
    configs: list[RunConfig], folder: Path, budget_seconds: float, started: float
) -> list[dict[str, float]]:
    """Measure a short run of the first config, and of the others while time allows.

    Args:
        configs: resolved, by increasing size.
        folder: of the runs.
        budget_seconds: a further run starts only if it fits into this time.
        started: monotonic seconds at which this process started.

    Returns:
        Results of `measure`, possibly of the first configs only.
    """
    before = time.monotonic() - started  # to start Python and import packages
    found: list[dict[str, float]] = []
    rate, longest = None, 0.0
    for i, config in enumerate(configs):
        began = time.monotonic()
        if found and began - started + longest > budget_seconds:
            break
        n_positions = config.train.global_batch_tokens
        flops = train_flops_per_token(config.model, config.data.seq_len) * n_positions
        n_steps = MAX_STEPS if rate is None else int(STEP_SECONDS * rate / flops)
        n_steps = min(max(n_steps, MIN_STEPS), MAX_STEPS)
        row = measure(_short(config, n_steps, folder / f"run-{i}"))
        rate = rate or flops / row["step_seconds"]
        found.append(row | {"start_seconds": row["start_seconds"] + before})
        longest = max(longest, time.monotonic() - began)
    return found


def _short(config: RunConfig, n_steps: int, out: Path) -> RunConfig:
    """Return a config of a few steps with the same shape and batch size."""
    _, _, val = open_splits(config)
    n_tokens = max(EVAL_BATCHES * config.train.global_batch_tokens, int(val.offsets[1]))
    n_documents = int(np.searchsorted(val.offsets, n_tokens, side="right")) - 1
    fixed = config.optim.warmup_steps is not None  # a number of steps of the whole run
    return replace(
        config,
        out=str(out),
        train=replace(config.train, n_steps=n_steps, log_every_steps=1),
        optim=replace(config.optim, warmup_steps=0 if fixed else None),
        checkpoint=replace(config.checkpoint, every_steps=2, keep_steps=()),
        execution=replace(config.execution, start_from=None),
        eval=replace(
            config.eval,
            n_evals=1,
            head_tokens=min(config.eval.head_tokens or n_tokens, n_tokens),
            n_documents=min(max(n_documents, 1), config.eval.n_documents),
        ),
    )


def measure(config: RunConfig) -> dict[str, float]:
    """Run a short run and return the cost of its parts.

    Args:
        config: of at least four steps, all logged, with a checkpoint at every second step and
            validations of the head at the first and the last step.

    Returns:
        start_seconds (to the first validation), step_seconds (median after the first two),
        checkpoint_seconds (of one checkpoint with its texts), eval_seconds_per_token, end_seconds
        (of the end without its validation) and memory_bytes (peak of the process or the GPU).
    """
    began = time.monotonic()
    seen: list[tuple[float, dict[str, Any]]] = []
    execute(config, observe=lambda row: seen.append((time.monotonic(), row)))
    trained = [(at, row["timing"]["step_seconds"]) for at, row in seen if row["kind"] == "train"]
    scored = [(at, row) for at, row in seen if row["kind"] == "eval"]
    gaps = [
        after - before - step
        for i, ((before, _), (after, step)) in enumerate(itertools.pairwise(trained), start=1)
        if i % 2 == 0
    ]
    checkpoint = max(statistics.median(gaps), 0.0)
    _, _, val = open_splits(config)
    head = head_documents(val, config.eval.n_documents, config.eval.head_tokens or 1)
    n_head = int(np.diff(val.offsets)[head].sum())
    n_final = int(val.offsets[min(config.eval.n_documents, val.n_documents)])
    first, second, last = scored  # of the head twice, then of all documents
    eval_seconds = [row["timing"]["eval_seconds"] for _, row in (first, second)]
    per_token = min(eval_seconds) / n_head
    device = config.execution.device
    peak = torch.cuda.max_memory_reserved() if device == "cuda" else peak_memory_bytes(device)
    return {
        "start_seconds": first[0] - began - eval_seconds[0],
        "step_seconds": statistics.median(step for _, step in trained[N_WARM_UP:]),
        "checkpoint_seconds": checkpoint,
        "eval_seconds_per_token": per_token,
        "end_seconds": max(last[0] - second[0] - checkpoint - n_final * per_token, 0.0),
        "memory_bytes": float(peak),
    }


def main(argv: list[str]) -> int:
    """Measure the configs of a request {"configs", "budget_seconds"} and publish the results."""
    import psutil

    started = time.monotonic() - (time.time() - psutil.Process().create_time())
    request = read_json(argv[0])
    configs = [from_dict(RunConfig, values, argv[0]) for values in request["configs"]]
    folder = Path(argv[1]).absolute().parent / Path(argv[1]).stem
    publish_json(argv[1], measure_all(configs, folder, request["budget_seconds"], started))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
