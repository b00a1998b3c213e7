"""The forms of scaling laws, as sums of non-negative terms.

Every form is L = sum_k exp(a_k + t_k(eta)), where the t_k are linear or bilinear in the logarithms
of compute, parameters and tokens. So ln L is a log-sum-exp, its gradient is a softmax, and L is
linear in exp(a_k) >= 0 for fixed exponents eta. Owns the formulas, their gradients and the public
names of their parameters; `solve.py` fits them.

Legend: L loss, C training FLOPs, N parameters, D tokens, M = D / N.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXPONENTS", "Chinchilla", "Form", "OverTraining", "PowerLaw", "Sample"]

Array = NDArray[np.float64]
EXPONENTS = (0.01, 1.5)  # bounds of every exponent


@dataclass(frozen=True)
class Sample:
    """The points at which losses were measured."""

    logs: Mapping[str, Array]  # ln of flops, params, tokens, each (n,), minus its mean
    centres: Mapping[str, float]  # those means
    arm: NDArray[np.int64]  # (n,), 0 is the baseline
    branch: NDArray[np.int64] | None = None  # (n,), index of the length; None: the usual one, 0

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Array],
        arm: NDArray[np.int64] | None = None,
        branch: NDArray[np.int64] | None = None,
    ) -> "Sample":
        """Take logarithms of positive columns and centre them."""
        logs = {name: np.log(values) for name, values in columns.items()}
        centres = {name: float(values.mean()) for name, values in logs.items()}
        n = len(next(iter(logs.values())))
        centred = {name: values - centres[name] for name, values in logs.items()}
        return cls(centred, centres, np.zeros(n, dtype=np.int64) if arm is None else arm, branch)

    def where(self, mask: NDArray[np.bool_]) -> "Sample":
        """Return the chosen points with the same centres."""
        logs = {name: values[mask] for name, values in self.logs.items()}
        branch = None if self.branch is None else self.branch[mask]
        return Sample(logs, self.centres, self.arm[mask], branch)


class Form(ABC):
    """One form. A parameter vector is (a_1 ... a_K, eta_1 ... eta_P); a_1 is ln E."""

    name: str
    formula: str
    columns: tuple[str, ...]  # on which it depends
    n_terms: int
    has_floor = True  # False fixes E at 0

    @property
    @abstractmethod
    def n_exponents(self) -> int:
        """P."""

    @property
    def n_params(self) -> int:
        """K + P."""
        return self.n_terms + self.n_exponents

    @property
    def n_free(self) -> int:
        """Number of fitted parameters."""
        return self.n_params - (not self.has_floor)

    @property
    def n_needed(self) -> int:
        """Number of clusters of runs that a fit needs."""
        return self.n_free

    @abstractmethod
    def terms(self, eta: Array, sample: Sample) -> Array:
        """Return t_k (..., n, K) for eta (..., P)."""

    @abstractmethod
    def slopes(self, eta: Array, sample: Sample) -> Array:
        """Return d t_k / d eta_p: (..., n, K, P)."""

    @abstractmethod
    def grid(self) -> Array:
        """Return a grid of initial exponents: (G, P)."""

    def bounds(self) -> Array:
        """Return lower and upper bounds of eta: (P, 2)."""
        return np.tile(EXPONENTS, (self.n_exponents, 1))

    @abstractmethod
    def public(self, theta: Array, sample: Sample) -> dict[str, Array]:
        """Return the parameters in their usual names and units, each (...), for (..., K + P)."""

    def log_loss(self, theta: Array, sample: Sample) -> Array:
        """Return ln L at each point: (..., n)."""
        z = theta[..., None, : self.n_terms] + self.terms(theta[..., self.n_terms :], sample)
        top = z.max(axis=-1)
        log: Array = top + np.log(np.exp(z - top[..., None]).sum(axis=-1))
        return log

    def gradient(self, theta: Array, sample: Sample) -> tuple[Array, Array]:
        """Return ln L (..., n) and its gradient (..., n, K + P)."""
        eta = theta[..., self.n_terms :]
        z = theta[..., None, : self.n_terms] + self.terms(eta, sample)
        top = z.max(axis=-1)
        share = np.exp(z - top[..., None])
        total = share.sum(axis=-1)
        share /= total[..., None]
        moved = (share[..., None] * self.slopes(eta, sample)).sum(axis=-2)
        return top + np.log(total), np.concatenate([share, moved], axis=-1)


class _LinearForm(Form):
    """A form whose t_1 is 0 and whose other t_k are a constant times one exponent each."""

    @abstractmethod
    def factors(self, sample: Sample) -> tuple[tuple[int, Array], ...]:
        """Return the index of the exponent and the constant (n,) of each t_k but the first."""

    def terms(self, eta: Array, sample: Sample) -> Array:
        """Return t_k (..., n, K) for eta (..., P)."""
        moved = [eta[..., p, None] * factor for p, factor in self.factors(sample)]
        return np.stack([np.zeros_like(moved[0]), *moved], axis=-1)

    def slopes(self, eta: Array, sample: Sample) -> Array:
        """Return d t_k / d eta_p: (..., n, K, P)."""
        out = np.zeros((*eta.shape[:-1], len(sample.arm), self.n_terms, self.n_exponents))
        for k, (p, factor) in enumerate(self.factors(sample), start=1):
            out[..., k, p] = factor
        return out


class PowerLaw(_LinearForm):
    """L = E + (C / C0)^-c. Source: Kaplan et al. 2020, equation 1.3, with a floor."""

    name = "power"
    formula = "L = E + (C / C0)^-c"
    columns = ("flops",)
    n_terms = 2
    n_exponents = 1

    def factors(self, sample: Sample) -> tuple[tuple[int, Array], ...]:
        """Return -ln C for c."""
        return ((0, -sample.logs["flops"]),)

    def grid(self) -> Array:
        """Return exponents from nearly flat to steep."""
        return np.geomspace(0.015, 0.8, 24)[:, None]

    def public(self, theta: Array, sample: Sample) -> dict[str, Array]:
        """Return E, C0 and c."""
        c = theta[..., 2]
        log_c0 = sample.centres["flops"] + theta[..., 1] / c
        return {"E": np.exp(theta[..., 0]), "C0": np.exp(np.minimum(log_c0, 700)), "c": c}


class Chinchilla(_LinearForm):
    """L = E + A N^-alpha + B D^-beta. Source: Hoffmann et al. 2022, equation 2."""

    name = "chinchilla"
    formula = "L = E + A N^-alpha + B D^-beta"
    columns = ("params", "tokens")
    n_terms = 3
    n_exponents = 2

    def factors(self, sample: Sample) -> tuple[tuple[int, Array], ...]:
        """Return -ln N for alpha and -ln D for beta."""
        return (0, -sample.logs["params"]), (1, -sample.logs["tokens"])

    def grid(self) -> Array:
        """Return pairs of exponents."""
        axis = np.geomspace(0.05, 1.0, 12)
        return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)

    def public(self, theta: Array, sample: Sample) -> dict[str, Array]:
        """Return E, A, B, alpha and beta."""
        alpha, beta = theta[..., 3], theta[..., 4]
        return {
            "E": np.exp(theta[..., 0]),
            "A": np.exp(theta[..., 1] + alpha * sample.centres["params"]),
            "B": np.exp(theta[..., 2] + beta * sample.centres["tokens"]),
            "alpha": alpha,
            "beta": beta,
        }


class OverTraining(_LinearForm):
    """L = E + (a M^h + b M^-h) C^-h. Source: Gadre et al. 2024 (2403.08540), equation 4."""

    name = "overtraining"
    formula = "L = E + (a M^h + b M^-h) C^-h, M = D / N"
    columns = ("params", "tokens", "flops")
    n_terms = 3
    n_exponents = 1

    def factors(self, sample: Sample) -> tuple[tuple[int, Array], ...]:
        """Return ln M - ln C and -(ln M + ln C), both for h."""
        log_m = sample.logs["tokens"] - sample.logs["params"]
        return (0, log_m - sample.logs["flops"]), (0, -log_m - sample.logs["flops"])

    def grid(self) -> Array:
        """Return exponents."""
        return np.geomspace(0.02, 0.6, 30)[:, None]

    def public(self, theta: Array, sample: Sample) -> dict[str, Array]:
        """Return E, a, b and h."""
        h, centres = theta[..., 3], sample.centres
        log_m = centres["tokens"] - centres["params"]
        return {
            "E": np.exp(theta[..., 0]),
            "a": np.exp(theta[..., 1] - h * (log_m - centres["flops"])),
            "b": np.exp(theta[..., 2] + h * (log_m + centres["flops"])),
            "h": h,
        }
