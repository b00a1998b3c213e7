"""Learning rates of an arm: brackets on low rungs, a power law, a check of it.

Owns the arithmetic, from the losses of a grid of rates to the rate of every rung and what a wrong
one may cost. Pure functions; which runs a bracket needs is in `plan.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FACTOR", "Bracket", "RateLaw", "Tuning", "fit_bracket", "fit_rate_law", "grid"]

FACTOR = 2.0  # between neighbours of a grid
# A vertex is not known better than this in ln rate, whatever the residuals of three points say.
LEAST_SD = math.log(FACTOR) / 4


def grid(centre: float, n_points: int) -> list[float]:
    """Give an odd number of rates around one, each twice its neighbour, rising."""
    half = n_points // 2
    return [centre * FACTOR**k for k in range(-half, half + 1)]


@dataclass(frozen=True)
class Bracket:
    """The losses of a grid of rates at one rung, and their parabola in ln rate.

    ln loss = ln best loss + curvature * (ln rate - ln best_rate)^2 near the best.

    Args:
        rung, flops: where.
        rates: rising, each twice the one before.
        losses: infinite for a run that diverged.
        best_rate: vertex of the parabola through the best point and its neighbours.
        curvature: None where a neighbour diverged or is missing.
        edge: the best point is the last of its grid, so the best rate is not bracketed.
    """

    rung: int
    flops: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    best_rate: float
    curvature: float | None
    edge: bool

    def regret(self, rate: float) -> float | None:
        """Give by how much ln loss is above its best at a rate."""
        if self.curvature is None:
            return None
        return self.curvature * math.log(rate / self.best_rate) ** 2

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return vars(self) | {"rates": list(self.rates), "losses": list(self.losses)}


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
        """Give the rate for a budget, to three digits."""
        rate = self.at_reference * (flops / self.reference) ** self.exponent
        return float(f"{rate:.3g}")

    def rate_sd(self, flops: float) -> float:
        """Give the standard error of ln rate for a budget, of a line fitted to points."""
        x = math.log(flops / self.reference)
        return self.sd * math.sqrt(1 / self.n_rungs + (x**2 / self.spread if self.spread else 0.0))


def fit_rate_law(brackets: Sequence[Bracket]) -> RateLaw:
    """Fit a power law to the best rates of brackets, by least squares in logarithms.

    One bracket gives a constant rate.
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
    """What is known of the rates of one arm.

    Args:
        arm: its name.
        brackets: of the lowest rungs, then the check; only those whose runs have ended.
        law: None until the brackets are done.
        done: no run of the search is left.
        problem: why no verdict may rest on these rates, if so.
    """

    arm: str
    brackets: tuple[Bracket, ...]
    law: RateLaw | None
    done: bool
    problem: str | None

    def regret(self, flops: float) -> float | None:
        """Give the loss, in ln loss, that a wrong rate must be expected to cost at a budget.

        Mean curvature times the squared standard error of ln rate. It is the same for all seeds of
        a rung, which therefore do not average it away.
        """
        known = [b.curvature for b in self.brackets if b.curvature is not None]
        if self.law is None or not known:
            return None
        return sum(known) / len(known) * self.law.rate_sd(flops) ** 2

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Tuning":
        """Read back what `to_json` gave; JSON has no infinity, so a diverged loss is null there."""
        brackets = []
        for bracket in values["brackets"]:
            losses = tuple(math.inf if loss is None else loss for loss in bracket["losses"])
            brackets.append(
                Bracket(**bracket | {"rates": tuple(bracket["rates"]), "losses": losses})
            )
        law = values["law"]
        return cls(
            arm=values["arm"],
            brackets=tuple(brackets),
            law=None if law is None else RateLaw(**law),
            done=values["done"],
            problem=values["problem"],
        )

    def to_json(self, flops: Sequence[float]) -> dict[str, Any]:
        """Give plain values, with the rate and the regret at every rung."""
        law = self.law
        rungs = []
        if law is not None:
            sd, regret = law.rate_sd, self.regret
            rungs = [
                {"flops": c, "rate": law.rate(c), "rate_sd": sd(c), "regret": regret(c)}
                for c in flops
            ]
        return {
            "arm": self.arm,
            "done": self.done,
            "problem": self.problem,
            "brackets": [bracket.to_json() for bracket in self.brackets],
            "law": None if law is None else vars(law),
            "rungs": rungs,
        }
