"""What minutes of a machine are spent on: a small ladder of two arms, then one larger model.

Owns the share-out of the time and the sizes that follow from it. Measures nothing: it is told how
many FLOPs a second the machine does.
"""

import math
from dataclasses import dataclass, replace

from ladderlm.model.config import ModelConfig
from ladderlm.study.ladder import MAX_MISS, Target, natural_budget, nearest_shape, snap_budgets
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
TOKENS_PER_PARAM = 8.0  # of the ladder, as far as the time allows; about the best at 5e11 FLOPs
# Of the final run, whose cost is time: wide layers and heads make better use of a core than those
# of the ladder, so fewer tokens for more parameters; about the best at 8e12 FLOPs on two cores.
FINAL_TOKENS_PER_PARAM, FINAL_HEAD_DIMS, FINAL_PROBE_DIM = 5.0, (32, 16, 8), 96
LADDER_SHARE = 0.36  # of --minutes; what is left after it goes to the final run and the report
REPORT_SECONDS = 15.0  # the final evaluation and the page
RUN_OVERHEAD_SECONDS = 5.0  # start of a process and the final evaluation
ARM_RUNS = (2, 2, 1, 1)  # seeds of each rung


@dataclass(frozen=True)
class Budget:
    """What the time is spent on.

    Args:
        flops: rungs of the ladder.
        tokens_per_param: of the ladder.
    """

    flops: tuple[float, ...]
    tokens_per_param: float


def choose_probe_shapes(base: ModelConfig) -> tuple[ModelConfig, ModelConfig]:
    """Choose what a machine's speed is measured with: for the ladder's runs, and for the final."""
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
    total = seconds * n_at_once * one_thread
    shape_of_ladder = [SPAN ** (k / (N_RUNGS - 1)) for k in range(N_RUNGS)]
    units = 2 * sum(n * f for n, f in zip(ARM_RUNS, shape_of_ladder, strict=True))
    lowest = total / units
    head = base.model.head_dim
    small = replace(base.model, dim=2 * head, n_layers=1, n_heads=2)
    smallest = natural_budget(small, TOKENS_PER_PARAM, base.data.seq_len)
    tokens_per_param = TOKENS_PER_PARAM
    while tokens_per_param > 0.25 and lowest < 0.8 * smallest * tokens_per_param / TOKENS_PER_PARAM:
        tokens_per_param /= 2**0.5
    tokens_per_param = float(f"{tokens_per_param:.2g}")
    flops = snap_budgets(
        max(lowest, natural_budget(small, tokens_per_param, base.data.seq_len)),
        N_RUNGS,
        SPAN,
        tokens_per_param,
        base.model,
        base.data.seq_len,
        ASPECT_RATIO,
    )
    return Budget(flops, tokens_per_param)


def plan_final(budget: Budget, seconds_left: float, all_cores: float) -> float:
    """Return the FLOPs of the final run, one and a half times the top rung or more.

    Args:
        seconds_left: for it and the report.
        all_cores: measured training FLOPs per second.
    """
    return max((seconds_left - REPORT_SECONDS) * all_cores, 1.5 * budget.flops[-1])


def choose_final_shape(base: RunConfig, flops: float) -> ModelConfig:
    """Choose the shape of the final run: the widest heads that leave a shape of the right size."""
    seq_len, target = base.data.seq_len, Target(FINAL_TOKENS_PER_PARAM)
    tried = []
    for head_dim in FINAL_HEAD_DIMS:
        model = replace(base.model, n_heads=base.model.dim // head_dim)
        shape, miss = nearest_shape(flops, target, model, seq_len, ASPECT_RATIO)
        if miss <= math.log(MAX_MISS):
            return shape
        tried.append((miss, shape))
    return min(tried, key=lambda pair: pair[0])[1]
