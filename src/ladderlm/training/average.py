"""An average of the weights over the run.

Owns the exponential moving average and the exchange of model and average for scoring. The
optimizer never sees it, so a run with an average trains exactly like one without.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Exponential moving average a <- d a + (1 - d) w of the weights, taken after every update.

    The decay d rises as (1 + n) / (10 + n) with the number n of updates until it reaches `decay`,
    so that the random first weights soon count little. Source of the average: Polyak and Juditsky
    1992; of the rise: TensorFlow's ExponentialMovingAverage with num_updates.

    Args:
        model: float32 weights; the average begins as a copy of them.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, n_updates: int) -> None:
        """Add the weights after update number `n_updates`, from 1."""
        decay = min(self.decay, (1 + n_updates) / (10 + n_updates))
        torch._foreach_lerp_(list(self.weights.values()), list(self.model.parameters()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Exchange the model's weights with the average inside the context."""
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
