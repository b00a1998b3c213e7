"""Learning rates of an arm: brackets on low rungs, a power law, a check of it.

Owns the arithmetic, from the losses of a grid of rates to the rate of every rung and the expected
cost of its error. Pure functions; the runs of a bracket are planned in `brackets.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.study.records import IN_MEMORY, Unbounded, fields_to_json, parse_record

__all__ = [
    "FACTOR",
    "Bracket",
    "RateLaw",
    "Tuning",
    "fit_bracket",
    "fit_rate_law",
    "grid",
    "rate_shift",
]

FACTOR = 2.0  # between neighbours of a grid
# A vertex is never known better than this in ln rate, however small the residuals.
LEAST_SD = math.log(FACTOR) / 4


def grid(centre: float, n_points: int) -> list[float]:
    """Return an odd number of rising rates around one, each twice the one before."""
    half = n_points // 2
    return [centre * FACTOR**k for k in range(-half, half + 1)]


@dataclass(frozen=True)
class Bracket:
    """The losses of a grid of rates at one rung, and their parabola in ln rate.

    ln loss = ln best loss + curvature * (ln rate - ln best_rate)^2 near the best.

    Args:
        rates: rising, each twice the one before.
        losses: infinite for a run that diverged.
        best_rate: vertex of the parabola through the best point and its neighbours.
        curvature: None where a neighbour diverged or is missing.
        edge: the best point is at the end of its grid, so the best rate is not bracketed.
    """

    rung: int
    flops: float
    rates: tuple[float, ...]
    losses: tuple[Unbounded, ...]
    best_rate: float
    curvature: float | None
    edge: bool

    def regret(self, rate: float) -> float | None:
        """Return by how much ln loss is above its best at a rate."""
        known = self.curvature
        return None if known is None else known * math.log(rate / self.best_rate) ** 2


def fit_bracket(
    rung: int, flops: float, rates: Sequence[float], losses: Sequence[float]
) -> Bracket:
    """Find the best rate of a grid. See `Bracket`."""
    best = int(np.argmin(losses))
    edge = best in (0, len(rates) - 1)
    vertex, curvature = rates[best], None
    if not edge and all(math.isfinite(loss) for loss in losses[best - 1 : best + 2]):
        below, here, above = (math.log(loss) for loss in losses[best - 1 : best + 2])
        step, bend = math.log(FACTOR), above - 2 * here + below
        curvature = bend / (2 * step**2)
        if bend > 0:
            vertex *= math.exp(step * (below - above) / (2 * bend))
    return Bracket(rung, flops, tuple(rates), tuple(losses), vertex, curvature, edge)


@dataclass(frozen=True)
class RateLaw:
    """Best rate as a power of compute: ln rate = ln at_reference + exponent ln(C / reference).

    Args:
        reference: geometric mean of the FLOPs that it was fitted to.
        sd: of one best rate around the law, in ln rate.
        n_rungs: rungs that it was fitted to.
        spread: sum of squared ln(C / reference) over them.
    """

    at_reference: float
    exponent: float
    reference: float
    sd: float
    n_rungs: int
    spread: float

    def rate(self, flops: float) -> float:
        """Return the rate for a budget, rounded to three digits."""
        rate = self.at_reference * (flops / self.reference) ** self.exponent
        return float(f"{rate:.3g}")

    def rate_sd(self, flops: float) -> float:
        """Return the standard error of ln rate for a budget, of a line fitted to points."""
        return math.sqrt(float(self.rate_covariance([flops])[0, 0]))

    def rate_covariance(self, flops: Sequence[float]) -> NDArray[np.float64]:
        """Return the covariance (budgets, budgets) of the errors of ln rate, which share a line."""
        x = np.log(np.asarray(flops) / self.reference)
        along = np.outer(x, x) / (self.spread or math.inf)
        return np.asarray(self.sd**2 * (1 / self.n_rungs + along))


def fit_rate_law(brackets: Sequence[Bracket]) -> RateLaw:
    """Fit a power law to the best rates of brackets, by least squares in logarithms.

    A single bracket gives a constant rate.
    """
    x = np.log([bracket.flops for bracket in brackets])
    y = np.log([bracket.best_rate for bracket in brackets])
    centred = x - x.mean()
    spread = float(np.sum(centred**2))
    exponent = float(np.sum(centred * y)) / spread if spread else 0.0
    residual = y - y.mean() - exponent * centred
    left = len(brackets) - 2
    sd = math.sqrt(float(np.sum(residual**2)) / left) if left > 0 else 0.0
    return RateLaw(
        at_reference=math.exp(y.mean()),
        exponent=exponent,
        reference=math.exp(x.mean()),
        sd=max(sd, LEAST_SD),
        n_rungs=len(brackets),
        spread=spread,
    )


@dataclass(frozen=True)
class Tuning:
    """The search for the learning rates of one arm.

    Args:
        done: no run of the search is left.
        problem: why no verdict may rest on these rates, if so.
        brackets: of the lowest rungs, then the check; only those whose runs have ended.
        law: None until the brackets are done.
        budgets: FLOPs of the rungs that the rates are for.
    """

    arm: str
    done: bool = False
    problem: str | None = None
    brackets: tuple[Bracket, ...] = ()
    law: RateLaw | None = None
    budgets: tuple[float, ...] = field(default=(), metadata=IN_MEMORY)

    def regret(self, flops: float) -> float | None:
        """Return the expected cost, in ln loss, of the error of the rate at a budget.

        It is the mean curvature times the squared standard error of ln rate. All seeds of a rung
        share it, so they do not average it away.
        """
        if self.law is None or self.curvature is None:
            return None
        return self.curvature * self.law.rate_sd(flops) ** 2

    @property
    def curvature(self) -> float | None:
        """Mean curvature of the parabolas; None if no bracket has one."""
        known = [b.curvature for b in self.brackets if b.curvature is not None]
        return sum(known) / len(known) if known else None

    def reread(self, losses: Mapping[tuple[int, float], float]) -> "Tuning":
        """Return the same search with the current losses of its runs, by rung and rate."""
        brackets = []
        for old in self.brackets:
            tried = zip(old.rates, old.losses, strict=True)
            now = [losses.get((old.rung, rate), loss) for rate, loss in tried]
            brackets.append(fit_bracket(old.rung, old.flops, old.rates, now))
        law = None if self.law is None else fit_rate_law(brackets)
        return replace(self, brackets=tuple(brackets), law=law)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, with the rate and its regret at every rung."""
        law = self.law
        rungs = [
            {"flops": c, "rate": law.rate(c), "rate_sd": law.rate_sd(c), "regret": self.regret(c)}
            for c in self.budgets
            if law is not None
        ]
        values: dict[str, Any] = fields_to_json(self)
        return values | {"rungs": rungs}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Tuning":
        """Read back what `to_json` returned."""
        return parse_record(cls, {**values, "budgets": [rung["flops"] for rung in values["rungs"]]})


def rate_shift(
    tunings: Sequence[Tuning], arms: tuple[str, str], flops: Sequence[float]
) -> NDArray[np.float64] | None:
    """Return the second moment of the effect of mistuned rates on the differences of two arms.

    At rung i an arm's ln loss lies g_i = k e_i^2 above its best, with k the curvature of its
    parabola (half of the second derivative) and e_i the error of ln rate, normal about 0. All e_i
    of an arm come from one line, with covariance c_ij. For normal variables (Isserlis 1918)

        E[g_i] = k c_ii,    Cov[g_i, g_j] = k^2 Cov[e_i^2, e_j^2] = 2 k^2 c_ij^2.

    The arms err independently, so their difference has the mean mu_i = E[g_i] of the first less
    that of the second, and the covariance 2 k^2 c_ij^2 summed over both; the moment about 0 is
    that covariance + mu_i mu_j. All seeds of a rung use one rate: none of it averages away.

    The mean is not subtracted from the differences. g is never negative, so each arm is a little
    better than measured, but between arms that were tuned alike most of this cancels. The rest
    depends on k and on a standard error with a floor (`LEAST_SD`), which is too uncertain to
    correct for. It may bias the answer by mu, so its square counts as error.

    Args:
        tunings: of a study's arms; an arm without a law adds nothing.
        arms: the two that are compared.
        flops: of the rungs.

    Returns:
        (rungs, rungs), of ln loss squared; None if neither arm has a law.
    """
    moments, mean = [], np.zeros(len(flops))
    for tuning in tunings:
        if tuning.arm in arms and tuning.law is not None and tuning.curvature is not None:
            covariance = tuning.law.rate_covariance(flops)
            moments.append(2 * tuning.curvature**2 * covariance**2)
            sign = 1.0 if tuning.arm == arms[0] else -1.0
            mean += sign * tuning.curvature * np.diag(covariance)
    return sum(moments, np.outer(mean, mean)) if moments else None
