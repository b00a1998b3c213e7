"""Scaling laws as plain functions.

Owns the formulas. Legend: L loss (nats per token or bits per byte), C training FLOPs. Fitting is
in `fit.py`. Arrays in, numbers out.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LogLinearLaw"]


@dataclass(frozen=True)
class LogLinearLaw:
    """ln L = a_arm + b (ln C - ln C_ref): a power law without a floor, one slope for all arms.

    Honest over a decade or two of compute, where a floor E cannot be told apart from a slower
    slope; not to be trusted far outside. Source: Kaplan et al. 2020, equation 1.3, with offsets.

    Args:
        intercepts: a of each arm, at C_ref.
        slope: b, negative when more compute helps.
        c_ref: geometric mean of the fitted C.
        covariance: of (a_1, ..., a_k, b).
        sigma: residual standard deviation of ln L.
        n_used: points fitted.
        arms: names, in the order of `intercepts`.
    """

    intercepts: tuple[float, ...]
    slope: float
    c_ref: float
    covariance: tuple[tuple[float, ...], ...]
    sigma: float
    n_used: int
    arms: tuple[str, ...]

    def predict(self, arm: str, flops: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the fitted loss of an arm at some FLOPs."""
        x = np.log(np.asarray(flops, dtype=np.float64) / self.c_ref)
        return np.exp(self.intercepts[self.arms.index(arm)] + self.slope * x)

    def standard_error(self, arm: str, flops: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the standard error of the fitted ln L."""
        x = np.log(np.asarray(flops, dtype=np.float64) / self.c_ref)
        design = np.zeros((len(x), len(self.arms) + 1))
        design[:, self.arms.index(arm)] = 1.0
        design[:, -1] = x
        variance = np.einsum("ij,jk,ik->i", design, np.array(self.covariance), design)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    @property
    def degrees_of_freedom(self) -> int:
        """Points minus parameters."""
        return self.n_used - len(self.intercepts) - 1

    def to_json(self) -> dict[str, Any]:
        """Give the law as plain values."""
        return {"form": "log-linear", **asdict(self)}
