"""Muon, one matrix at a time, by singular values and plain loops.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of
the update is that of Liu et al. 2025 (2502.16982), equation 4.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["MuonMatrix", "driven", "orthogonalize_slow"]

Matrix = NDArray[np.float64]


def driven(value: float) -> float:
    """Send one singular value through the quintic, five times."""
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    return value


def orthogonalize_slow(matrix: Matrix) -> Matrix:
    """Return U f(S / |S|) V': an odd polynomial of a matrix acts on its singular values alone."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    norm = math.sqrt(sum(value**2 for value in values)) + 1e-7
    result = np.zeros_like(matrix)
    for i, value in enumerate(values):
        result += driven(value / norm) * np.outer(left[:, i], right[i])
    return result


class MuonMatrix:
    """One matrix with its momentum."""

    def __init__(self, weight: Matrix) -> None:
        self.weight, self.momentum = weight.copy(), np.zeros_like(weight)

    def update(
        self, gradient: Matrix, *, learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        """Make one update: decay apart from the rest, then the Nesterov direction."""
        n_rows, n_columns = self.weight.shape
        direction = np.zeros_like(self.weight)
        for i in range(n_rows):
            for j in range(n_columns):
                self.momentum[i, j] = momentum * self.momentum[i, j] + gradient[i, j]
                direction[i, j] = gradient[i, j] + momentum * self.momentum[i, j]
        step = orthogonalize_slow(direction)
        scale = 0.2 * math.sqrt(max(n_rows, n_columns))
        for i in range(n_rows):
            for j in range(n_columns):
                self.weight[i, j] -= learning_rate * weight_decay * self.weight[i, j]
                self.weight[i, j] -= learning_rate * scale * step[i, j]
