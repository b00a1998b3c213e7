"""Compute the learning rate as a pure function of the step.

Owns the formulas. Without state, a resumed run cannot differ from an uninterrupted one.
"""

import math

from ladderlm.optim.config import OptimConfig

__all__ = ["count_stable_steps", "count_warmup_steps", "learning_rate_at"]


def count_warmup_steps(config: OptimConfig, n_steps: int) -> int:
    """Return the number of warm-up updates in a run of `n_steps`."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(config.warmup_fraction * n_steps)


def count_stable_steps(config: OptimConfig, n_steps: int) -> int:
    """Return the number of updates of a WSD run before its cooldown, including the warm-up.

    With `warmup_steps`, runs of any length with equal seeds are equal up to there.
    """
    return max(n_steps - _count_decay_steps(config, n_steps), 0)


def _count_decay_steps(config: OptimConfig, n_steps: int) -> int:
    return max(math.ceil(config.decay_fraction * n_steps), 1)


def learning_rate_at(config: OptimConfig, step: int, n_steps: int) -> float:
    """Return the learning rate of update number `step`, from 0 to n_steps - 1.

    Warm-up is linear from peak / n_warmup to the peak. Cosine: Loshchilov and Hutter 2016,
    equation 5, one half period, ending at `final_lr_fraction` of the peak at the last update.
    Linear: the same span in a straight line, Bergsma et al. 2025 (2502.15938), section 2.
    WSD: Hägele et al. 2024 (2405.18392), constant, then linear to the final fraction.
    """
    n_warmup = count_warmup_steps(config, n_steps)
    if step < n_warmup:
        return config.learning_rate * (step + 1) / n_warmup
    last = max(n_steps - 1, 1)
    begin = min(n_warmup, last - 1) if last > 1 else 0
    progress = min((step - begin) / max(last - begin, 1), 1.0)
    if config.schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "linear":
        shape = 1 - progress
    else:
        shape = min(1.0, (n_steps - 1 - step) / _count_decay_steps(config, n_steps))
    floor = config.final_lr_fraction
    return config.learning_rate * (floor + (1 - floor) * shape)
