"""AdamW, one number at a time. Source: Loshchilov and Hutter 2017, algorithm 2."""

import math

__all__ = ["AdamWNumber", "clip_scale"]


class AdamWNumber:
    """One weight with its two moments."""

    def __init__(self, value: float) -> None:
        self.value, self.mean, self.square, self.n_updates = value, 0.0, 0.0, 0

    def update(
        self,
        gradient: float,
        *,
        learning_rate: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        """Make one update, decay scaled by the learning rate and apart from the moments."""
        self.n_updates += 1
        self.mean = beta1 * self.mean + (1 - beta1) * gradient
        self.square = beta2 * self.square + (1 - beta2) * gradient**2
        mean = self.mean / (1 - beta1**self.n_updates)
        square = self.square / (1 - beta2**self.n_updates)
        self.value -= learning_rate * weight_decay * self.value
        self.value -= learning_rate * mean / (math.sqrt(square) + eps)


def clip_scale(gradients: list[float], limit: float) -> float:
    """Return the factor that brings the norm of all gradients together down to the limit."""
    norm = math.sqrt(sum(g * g for g in gradients))
    return min(1.0, limit / (norm + 1e-6))
