"""Simulated studies with a known truth, judged by the code that judges real ones.

Owns the planted laws and noise, and the error rates of intervals, verdicts and forecasts.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ladderlm.scaling.compare import Comparison, compare_arms
from ladderlm.scaling.forecast import Forecast, forecast
from ladderlm.scaling.joint import fit_law, prediction_errors
from ladderlm.scaling.points import Points
from ladderlm.scaling.statistical_power import PLANNING_NOISE, Noise, detection_power
from ladderlm.study.verdict import decide

__all__ = ["CASES", "Planted", "draw_losses", "simulate"]

Array = NDArray[np.float64]
# Loss of the baseline: 5.7 nats at 1e13 FLOPs, 3.6 at 1e15, with slopes of 0.11 to 0.085 in ln L.
FLOOR, REACH, EXPONENT, LOWEST = 1.7, 4.0, 0.16, 1e13
# Small models: the same loss at the start, with slopes of 0.06 and more (docs/studies).
BENT_SLOPE, BEND = 0.06, 0.0075
SHARED = 0.5  # of a seed's variance comes from the order of data, which both arms of a pair share


@dataclass(frozen=True)
class Planted:
    """A study to draw, whose variant has the loss of the baseline at m C.

    Args:
        low, top: m on the lowest and on the top rung, log-linear in between.
        n_rungs: in half-decade steps.
        n_seeds: pairs at every rung.
        noise: sd of ln L.
        bent: the loss falls faster and faster, without a floor.
    """

    low: float = 1.0
    top: float = 1.0
    n_rungs: int = 5
    n_seeds: int = 2
    noise: Noise = PLANNING_NOISE
    bent: bool = False

    @property
    def budgets(self) -> Array:
        """FLOPs of the rungs."""
        return LOWEST * 10 ** (np.arange(self.n_rungs) / 2)

    @property
    def unshared(self) -> Noise:
        """The noise that differs inside a pair."""
        return Noise(self.noise.seed_sd * math.sqrt(1 - SHARED), self.noise.rung_sd)

    @property
    def slopes(self) -> Array:
        """-d ln L / d ln C of the truth at every rung."""
        u = np.log(self.budgets / LOWEST)
        if self.bent:
            return np.asarray(BENT_SLOPE + BEND * u)
        reach = REACH * np.exp(-EXPONENT * u)
        return np.asarray(EXPONENT * reach / (FLOOR + reach))

    def log_loss(self, u: Array) -> Array:
        """Return ln L of the truth for u = ln(C / LOWEST) of the baseline."""
        if self.bent:
            return np.asarray(np.log(FLOOR + REACH) - BENT_SLOPE * u - BEND * u**2 / 2)
        return np.asarray(np.log(FLOOR + REACH * np.exp(-EXPONENT * u)))


CASES = {
    "m = 1.00": Planted(),
    "m = 1.05": Planted(1.05, 1.05),
    "m = 1.20": Planted(1.20, 1.20),
    "m = 1.40 falling to 1.05": Planted(1.40, 1.05),
    "m = 1.20, loss bends down": Planted(1.20, 1.20, bent=True),
}


def draw_losses(planted: Planted, rng: np.random.Generator) -> Points:
    """Draw the losses of one study."""
    n, k = planted.n_rungs, planted.n_seeds
    budgets = planted.budgets
    steps = np.linspace(0, 1, n)
    log_m = np.log(planted.low) + steps * (np.log(planted.top) - np.log(planted.low))
    u = np.log(budgets / LOWEST) + np.stack([np.zeros(n), log_m])  # (arm, rung)
    log_loss = planted.log_loss(u)[:, :, None]
    own = rng.normal(0, planted.unshared.seed_sd, (2, n, k))
    shared = rng.normal(0, planted.noise.seed_sd * math.sqrt(SHARED), (1, n, k))
    mistuned = rng.normal(0, planted.noise.rung_sd, (2, n, 1))
    noisy = np.exp(log_loss + own + shared + mistuned)
    arm, rung, seed = np.indices(noisy.shape)
    return Points(
        arm=np.array(["base", "new"])[arm.ravel()],
        rung=rung.ravel(),
        seed=seed.ravel(),
        x=budgets[rung.ravel()],
        loss=noisy.ravel(),
    )


def simulate(
    planted: Planted, n_studies: int, seed: int = 0
) -> dict[str, float | dict[str, float]]:
    """Draw studies, judge them and return their statistics.

    Returns:
        Shares of verdicts (also by the rules after rule 0) and of failed hold-outs, coverage of the
        trend's interval, coverage and half-width of the 90 % forecast of the top rung. If m is the
        same on all rungs, also the coverage of the pooled intervals and their power, as found and
        as predicted by planning.
    """
    rng = np.random.default_rng(seed)
    compared: list[Comparison] = []
    words, numbers = Counter[str](), Counter[str]()
    failed = 0
    forecasts: list[tuple[Forecast, float]] = []
    for _ in range(n_studies):
        points = draw_losses(planted, rng)
        comparison = compare_arms(points, "base", "new")
        is_top = points.rung == planted.n_rungs - 1
        law, held = fit_law(points.where(~is_top), "base"), points.where(is_top)
        rows = prediction_errors(law, held)
        passed = all(row["passed"] for row in rows)
        verdict = decide(comparison, tuned=True, holdout_passed=passed, demonstration=False)
        words[verdict.word] += 1
        numbers[verdict.would_be] += 1
        failed += not passed
        compared.append(comparison)
        forecasts += [
            (forecast(law, row["arm"], row["x"], row["n_runs"]), row["actual"]) for row in rows
        ]
    trend = math.log(planted.top / planted.low) / math.log(planted.budgets[-1] / LOWEST)
    pooled = [comparison.pooled for comparison in compared]
    found: dict[str, float | dict[str, float]] = {
        "n_studies": n_studies,
        "median_m": float(np.median([p.value for p in pooled])),
        "trend_coverage_95": _share(c.trend.low_95 <= trend <= c.trend.high_95 for c in compared),
        "words": {word: n / n_studies for word, n in sorted(words.items())},
        "words_by_numbers": {word: n / n_studies for word, n in sorted(numbers.items())},
        "holdout_failed": failed / n_studies,
        "forecast_coverage_90": _share(f.low_90 <= actual <= f.high_90 for f, actual in forecasts),
        "forecast_half_width": float(
            np.median([(f.high_90 - f.low_90) / 2 / f.value for f, _ in forecasts])
        ),
    }
    if planted.low == planted.top:
        seeds, slopes = [planted.n_seeds] * planted.n_rungs, planted.slopes.tolist()
        m = planted.low
        found |= {
            "coverage_95": _share(p.low_95 <= m <= p.high_95 for p in pooled),
            "coverage_90": _share(p.low_90 <= m <= p.high_90 for p in pooled),
            "power": _share(p.low_95 > 1 for p in pooled),
            "predicted_power": detection_power(m, seeds, planted.unshared, slopes),
        }
    return found


def _share(inside: Iterable[bool]) -> float:
    return float(np.mean(list(inside)))
