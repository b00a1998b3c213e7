"""Least squares by the normal equations and Gaussian elimination, one number at a time.

Source: Draper and Smith 1998, Applied Regression Analysis, section 5.1.
"""

import math
from collections.abc import Sequence

__all__ = ["invert", "log_linear"]

Matrix = list[list[float]]


def invert(matrix: Sequence[Sequence[float]]) -> Matrix:
    """Invert a square matrix by Gauss and Jordan, with the largest pivot first."""
    n = len(matrix)
    rows = [[*map(float, row), *(float(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = max(range(column, n), key=lambda i: abs(rows[i][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for i in range(n):
            if i != column:
                factor = rows[i][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[column], strict=True)]
    return [row[n:] for row in rows]


def log_linear(
    arms: Sequence[str], x: Sequence[float], loss: Sequence[float]
) -> tuple[list[float], Matrix, float]:
    """Fit ln L = a_arm + b ln(x / x_ref), x_ref the geometric mean of x.

    Returns:
        (a of each arm in order of first appearance, then b), their covariance, and sigma.
    """
    names = list(dict.fromkeys(arms))
    middle = sum(map(math.log, x)) / len(x)
    design = [
        [*(float(arm == name) for name in names), math.log(value) - middle]
        for arm, value in zip(arms, x, strict=True)
    ]
    target = [math.log(value) for value in loss]
    k = len(names) + 1
    gram = [[sum(row[i] * row[j] for row in design) for j in range(k)] for i in range(k)]
    moments = [sum(row[i] * y for row, y in zip(design, target, strict=True)) for i in range(k)]
    inverse = invert(gram)
    solution = [sum(inverse[i][j] * moments[j] for j in range(k)) for i in range(k)]
    squares = 0.0
    for row, y in zip(design, target, strict=True):
        squares += (y - sum(a * b for a, b in zip(row, solution, strict=True))) ** 2
    variance = squares / (len(x) - k)
    return solution, [[variance * value for value in row] for row in inverse], math.sqrt(variance)
