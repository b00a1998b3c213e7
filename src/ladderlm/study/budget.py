"""A budget of minutes, spent on a small ladder of two arms and then on one larger model.

Owns the shares of the time and the sizes that follow. The machine's FLOPs per second are given.
"""

import math
from dataclasses import dataclass, replace

from ladderlm.model.config import ModelConfig
from ladderlm.study.ladder import MAX_MISS, ShapeGrid, Target, nearest_shape, snap_budgets
from ladderlm.training.run_config import RunConfig

__all__ = [
    "ASPECT_RATIO",
    "Budget",
    "choose_final_shape",
    "choose_probe_shapes",
    "plan_budget",
    "plan_final",
]

N_RUNGS, SPAN, ASPECT_RATIO = 4, 10.5, 32.0
TOKENS_PER_PARAM = 8.0  # of the ladder, if the time allows; about the best at 5e11 FLOPs
# Of the final run, whose cost is time: wide layers and heads use a core better than those of the
# ladder, so more parameters get fewer tokens; about the best at 8e12 FLOPs on two cores.
FINAL_TOKENS_PER_PARAM, FINAL_HEAD_DIMS, FINAL_PROBE_DIM = 5.0, (32, 16, 8), 96
LADDER_SHARE = 0.36  # of --minutes; the rest is for the final run and the report
REPORT_SECONDS = 15.0  # the final evaluation and the page
RUN_OVERHEAD_SECONDS = 5.0  # start of a process and the final evaluation
ARM_RUNS = (2, 2, 1, 1)  # seeds of each rung


@dataclass(frozen=True)
class Budget:
    """The ladder that the time allows: FLOPs of its rungs, and its tokens per parameter."""

    flops: tuple[float, ...]
    tokens_per_param: float


def choose_probe_shapes(base: ModelConfig) -> tuple[ModelConfig, ModelConfig]:
    """Return the shapes to measure speed with, for the ladder's runs and for the final run."""
    n_heads = FINAL_PROBE_DIM // FINAL_HEAD_DIMS[0]
    ladder = replace(base, dim=32, n_layers=1, n_heads=4)
    return ladder, replace(base, dim=FINAL_PROBE_DIM, n_heads=n_heads)


def plan_budget(base: RunConfig, minutes: float, n_cores: int, one_thread: float) -> Budget:
    """Plan the ladder for its share of the time.

    Args:
        one_thread: measured training FLOPs per second.
    """
    n_runs = 2 * sum(ARM_RUNS)
    n_at_once = min(n_cores, n_runs)
    waiting = RUN_OVERHEAD_SECONDS * n_runs / n_at_once
    seconds = max(60 * minutes * LADDER_SHARE - waiting, 5.0)
    relative = [SPAN ** (k / (N_RUNGS - 1)) for k in range(N_RUNGS)]
    units = 2 * sum(n * f for n, f in zip(ARM_RUNS, relative, strict=True))
    lowest = seconds * n_at_once * one_thread / units
    small = replace(base.model, dim=2 * base.model.head_dim, n_layers=1, n_heads=2)
    smallest = Target(TOKENS_PER_PARAM).budget(small, base.data.seq_len)
    tokens_per_param = TOKENS_PER_PARAM
    while tokens_per_param > 0.25 and lowest < 0.8 * smallest * tokens_per_param / TOKENS_PER_PARAM:
        tokens_per_param /= 2**0.5
    tokens_per_param = float(f"{tokens_per_param:.2g}")
    lowest = max(lowest, Target(tokens_per_param).budget(small, base.data.seq_len))
    grid = ShapeGrid(base.model, base.data.seq_len, ASPECT_RATIO)
    return Budget(snap_budgets(lowest, N_RUNGS, SPAN, tokens_per_param, grid), tokens_per_param)


def plan_final(budget: Budget, seconds_left: float, all_cores: float) -> float:
    """Return the FLOPs of the final run, at least one and a half times the top rung.

    Args:
        seconds_left: for the final run and the report.
        all_cores: measured training FLOPs per second.
    """
    return max((seconds_left - REPORT_SECONDS) * all_cores, 1.5 * budget.flops[-1])


def choose_final_shape(base: RunConfig, flops: float) -> ModelConfig:
    """Choose the shape of the final run: the widest heads that leave a shape of the right size."""
    tried = []
    for head_dim in FINAL_HEAD_DIMS:
        model = replace(base.model, n_heads=base.model.dim // head_dim)
        grid = ShapeGrid(model, base.data.seq_len, ASPECT_RATIO)
        shape, miss = nearest_shape(flops, Target(FINAL_TOKENS_PER_PARAM), grid)
        if miss <= math.log(MAX_MISS):
            return shape
        tried.append((miss, shape))
    return min(tried, key=lambda pair: pair[0])[1]
