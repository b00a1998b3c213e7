"""An average of the weights over the run, kept beside them.

Owns the exponential moving average and the exchange of model and average for scoring. The
optimizer never sees it, so that a run with an average trains exactly as one without.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Keep a <- d a + (1 - d) w after every update.

    The decay d rises as (1 + n) / (10 + n) with the updates n done until it reaches `decay`, so
    that the first weights, which are random, are soon forgotten. Source of the average: Polyak and
    Juditsky 1992; of the rise: TensorFlow's ExponentialMovingAverage with num_updates.

    Args:
        model: float32 weights; the average begins as a copy of them.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, n_updates: int) -> None:
        """Take in the weights after update number `n_updates`, from 1."""
        decay = min(self.decay, (1 + n_updates) / (10 + n_updates))
        torch._foreach_lerp_(list(self.weights.values()), list(self.model.parameters()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model hold the average meanwhile; one tensor at a time is exchanged."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self.model.named_parameters():
            held = parameter.clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(held)
