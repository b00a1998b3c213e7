"""Forms whose slope may grow with compute: the joint law of arms, and ln L quadratic in ln C.

Owns the arms, further lengths and the bend, which the sums of `forms.py` do not have.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ladderlm.scaling.forms import EXPONENTS, Form, PowerLaw, Sample

__all__ = ["Joint", "Quadratic"]

Array = NDArray[np.float64]
BEND = (0.0, 0.1)  # bounds of the growth of the exponent when compute grows e-fold


def _indicators(places: NDArray[np.int64], n: int) -> Array:
    return np.asarray(places == np.arange(1, n + 1)[:, None], dtype=np.float64)


@dataclass(frozen=True)
class Joint(Form):
    """Each variant is the baseline at compute m C: L = E + (m C / C0)^-c, m = 1 for the baseline.

    ln m = k0 + k1 ln(C / C_ref), C_ref the geometric mean of the fitted C; E, C0 and c are shared.
    Sizes trained for other lengths have r_b C instead of C, with one r_b per further length for all
    arms. This is the form of Gadre et al. 2024 (2403.08540), equation 4, where the exponent does
    not depend on tokens per parameter, with a free factor instead of their a M^h + b M^-h.

    Args:
        variants: number of variants.
        trend: k1 is free; if not, it is 0.
        branches: number of further lengths.
        bend: the power steepens with compute: L = E + L0 exp(-c u - b u^2 / 2), u = ln(m C / C_ref)
            and b >= 0. Intended for E = 0: then ln L is quadratic and concave in ln C, as no sum of
            powers is.
    """

    variants: int = 1
    trend: bool = True
    branches: int = 0
    bend: bool = False

    name = "joint"
    columns = ("flops",)
    n_terms = 2

    @property
    def formula(self) -> str:  # type: ignore[override]
        """The fitted formula."""
        bent = "L0 exp(-c u - b u^2 / 2), u = ln(m C / C_ref)"
        law = bent if self.bend else "E + (m C / C0)^-c"
        return f"L = {law}, ln m = k0 + k1 ln(C / C_ref), m = 1 for the baseline"

    @property
    def _ends(self) -> tuple[int, int, int]:
        """The ends of k0, k1 and r among the exponents; c is the first and b the last."""
        k0 = 1 + self.variants
        k1 = k0 + self.variants * self.trend
        return k0, k1, k1 + self.branches

    @property
    def n_exponents(self) -> int:
        """P: one or two, one or two per variant, and one per further length."""
        return self._ends[2] + self.bend

    @property
    def n_needed(self) -> int:
        """Number of clusters of runs that a fit needs; r needs none, as trunks have all lengths."""
        return self.n_free - self.branches

    def _is_variant(self, sample: Sample) -> Array:
        """Return one indicator per variant: (variants, n)."""
        return _indicators(sample.arm, self.variants)

    def _is_branch(self, sample: Sample) -> Array:
        """Return one indicator per further length: (branches, n)."""
        own = np.zeros_like(sample.arm) if sample.branch is None else sample.branch
        return _indicators(own, self.branches)

    def log_reach(self, eta: Array, sample: Sample) -> Array:
        """Return ln(m r) at each point: (..., n)."""
        chosen, (k0, k1, r) = self._is_variant(sample), self._ends
        total: Array = eta[..., 1:k0] @ chosen
        if self.trend:
            total = total + (eta[..., k0:k1] @ chosen) * sample.logs["flops"]
        if self.branches:
            total = total + eta[..., k1:r] @ self._is_branch(sample)
        return total

    def terms(self, eta: Array, sample: Sample) -> Array:
        """Return 0 and -c u - b u^2 / 2 with u = ln(m r C)."""
        u = sample.logs["flops"] + self.log_reach(eta, sample)
        moved = -eta[..., :1] * u
        if self.bend:
            moved = moved - eta[..., -1:] * u**2 / 2
        return np.stack([np.zeros_like(moved), moved], axis=-1)

    def slopes(self, eta: Array, sample: Sample) -> Array:
        """Return the gradient of the terms."""
        x, (k0, k1, _) = sample.logs["flops"], self._ends
        out = np.zeros((*eta.shape[:-1], len(sample.arm), 2, self.n_exponents))
        u = x + self.log_reach(eta, sample)
        out[..., 1, 0] = -u
        steepness = eta[..., :1]
        if self.bend:
            out[..., 1, -1] = -(u**2) / 2
            steepness = steepness + eta[..., -1:] * u
        for v, own in enumerate(self._is_variant(sample)):
            out[..., 1, 1 + v] = -steepness * own
            if self.trend:
                out[..., 1, k0 + v] = -steepness * own * x
        for b, own in enumerate(self._is_branch(sample)):
            out[..., 1, k1 + b] = -steepness * own
        return out

    def grid(self) -> Array:
        """Return initial exponents, with m = r = 1."""
        axis = np.geomspace(0.015, 0.8, 16)
        return np.hstack([axis[:, None], np.zeros((len(axis), self.n_exponents - 1))])

    def bounds(self) -> Array:
        """Return bounds of e^-3 and e^3 for m and r, -1 and 1 for the trend."""
        free, trend = [(-3.0, 3.0)], [(-1.0, 1.0)] * (self.variants * self.trend)
        bounds = [EXPONENTS, *free * self.variants, *trend, *free * self.branches]
        return np.array([*bounds, BEND] if self.bend else bounds)

    def public(self, theta: Array, sample: Sample) -> dict[str, Array]:
        """Return E, C0 and c (with a bend L0, c, b), k0, k1 of each variant, ln_r of each length.

        From the second one on, variants and lengths are numbered.
        """
        eta, (k0, k1, r) = theta[..., self.n_terms :], self._ends
        found = PowerLaw().public(theta[..., :3], sample)
        if self.bend:
            found = {"L0": np.exp(theta[..., 1]), "c": eta[..., 0], "b": eta[..., -1]}
        for name, begin, end in (("k0", 1, k0), ("k1", k0, k1), ("ln_r", k1, r)):
            for i in range(begin, end):
                found[f"{name}_{i - begin + 1}" if i > begin else name] = eta[..., i]
        return found


class Quadratic(Joint):
    """ln L is quadratic in ln C, for ladders whose slope grows or falls within their range.

    If the interval of b contains 0, a power law without a floor fits as well.
    """

    name = "quadratic"
    formula = "ln L = ln L0 - c u - b u^2 / 2, u = ln(C / C_ref)"
    has_floor = False

    def __init__(self) -> None:
        super().__init__(variants=0, trend=False, bend=True)

    def bounds(self) -> Array:
        """Return bounds that allow either sign of c and b."""
        return np.array([(-EXPONENTS[1], EXPONENTS[1]), (-BEND[1], BEND[1])])

    def public(self, theta: Array, sample: Sample) -> dict[str, Array]:
        """Return L0, C_ref (the geometric mean of the fitted C), c and b."""
        c_ref = np.full(theta.shape[:-1], np.exp(sample.centres["flops"]))
        return {"L0": np.exp(theta[..., 1]), "C_ref": c_ref, "c": theta[..., 2], "b": theta[..., 3]}
