"""How far a ratio of sums over documents could be off.

Owns the bootstrap over documents (or clusters of them) of sum / sum, its intervals and p-values,
and Holm's correction for looking at many. Arrays in, numbers out. No torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_CLUSTERS", "Bootstrap", "bootstrap_ratio", "holm", "mean_of"]

MIN_CLUSTERS = 5  # fewer say nothing about the documents that were not seen
_PIECE = 1 << 20  # numbers drawn at once
_ROUNDING = 1e-14  # relative, of sums of float64


@dataclass(frozen=True)
class Bootstrap:
    """A number, its standard error, and both of every resample.

    Args:
        estimate, error: of the documents as they are.
        draws, errors: of each resample; empty where there were too few clusters.
    """

    estimate: float
    error: float
    draws: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def _distances(self) -> NDArray[np.float64]:
        """|draw - estimate| in units of the draw's own error; what rounding explains is 0."""
        distances = np.abs(self.draws - self.estimate)
        distances[distances <= _ROUNDING * abs(self.estimate)] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(distances > 0, distances / self.errors, 0.0)

    def interval(self, level: float = 0.95) -> list[float] | None:
        """Return the ends of the symmetric bootstrap-t interval; None without resamples.

        Source: Hall 1988, section 2 (symmetric percentile-t); Efron and Tibshirani 1993, 12.5.
        """
        if not len(self.draws) or not math.isfinite(self.estimate):
            return None
        reach = float(np.quantile(self._distances, level, method="higher"))
        half = reach * self.error if self.error else 0.0
        return [self.estimate - half, self.estimate + half]

    def p_value(self) -> float | None:
        """Return the two-sided p of "it is zero", by the same distances as the interval.

        The smallest that R resamples can give is 1 / (R + 1). None without resamples.
        """
        if not len(self.draws) or not math.isfinite(self.estimate):
            return None
        if self.estimate == 0:
            return 1.0
        own = abs(self.estimate) / self.error if self.error else math.inf
        return float((1 + np.sum(self._distances >= own)) / (len(self.draws) + 1))


def bootstrap_ratio(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.int64],
    clusters: NDArray[np.int64] | None = None,
    n_draws: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """Resample documents and return sum(numerator) / sum(denominator) of each resample.

    Args:
        numerator, denominator: one entry a document.
        clusters: documents with the same number are drawn together; None: each alone.
        seed: the same seed gives the same interval.
    """
    top, bottom = numerator.astype(np.float64), denominator.astype(np.float64)
    if clusters is not None:
        _, of = np.unique(clusters, return_inverse=True)
        sums = [np.bincount(of, weights=values) for values in (top, bottom)]
        top, bottom = (np.asarray(values, dtype=np.float64) for values in sums)
    n = len(top)
    total = math.fsum(bottom.tolist())
    estimate = math.fsum(top.tolist()) / total if total else math.nan
    if n < MIN_CLUSTERS or not math.isfinite(estimate):
        return Bootstrap(estimate, math.nan, np.empty(0), np.empty(0))
    error = float(_errors(top[None], bottom[None], np.array([estimate]))[0])
    rng = np.random.default_rng(seed)
    draws, errors = np.empty(n_draws), np.empty(n_draws)
    n_at_once = max(1, _PIECE // n)
    for at in range(0, n_draws, n_at_once):
        end = min(at + n_at_once, n_draws)
        chosen = rng.integers(0, n, (end - at, n))
        tops, bottoms = top[chosen], bottom[chosen]
        with np.errstate(divide="ignore", invalid="ignore"):
            draws[at:end] = tops.sum(axis=1) / bottoms.sum(axis=1)
            errors[at:end] = _errors(tops, bottoms, draws[at:end])
    usable = np.isfinite(draws)  # a resample may hold empty documents only
    return Bootstrap(estimate, error, draws[usable], errors[usable])


def _errors(
    tops: NDArray[np.float64], bottoms: NDArray[np.float64], ratios: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the linearised standard error of each row's ratio.

    Source: Cochran 1977, Sampling Techniques, equation 6.13, without the finite population.
    """
    n = tops.shape[1]
    residuals = tops - ratios[:, None] * bottoms
    residuals[np.abs(residuals) <= _ROUNDING * np.abs(tops)] = 0.0  # not a tiny error
    squares = (residuals**2).sum(axis=1)
    return np.asarray(np.sqrt(squares * n / (n - 1)) / bottoms.sum(axis=1))


def mean_of(parts: Sequence[Bootstrap]) -> Bootstrap:
    """Return the plain mean of independent ratios; without resamples if one of them has none."""
    n_draws = min((len(part.draws) for part in parts), default=0)
    n = max(len(parts), 1)
    return Bootstrap(
        math.fsum(part.estimate for part in parts) / n if parts else math.nan,
        math.sqrt(math.fsum(part.error**2 for part in parts)) / n,
        np.sum([part.draws[:n_draws] for part in parts], axis=0) / n if n_draws else np.empty(0),
        np.sqrt(np.sum([part.errors[:n_draws] ** 2 for part in parts], axis=0)) / n
        if n_draws
        else np.empty(0),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for looking at all of them; None takes no part and stays.

    Source: Holm 1979: the k-th smallest of m is multiplied by m - k + 1, then made monotone.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for k, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - k)))
        corrected[i] = largest
    return corrected
