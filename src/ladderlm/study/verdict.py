"""The verdict on a comparison, in fixed words.

Owns the rules. They are applied in order, and the first that matches wins. Pure functions.
"""

import math
from dataclasses import dataclass
from typing import Any

from ladderlm.scaling.compare import Comparison
from ladderlm.scaling.statistical_power import rungs_needed

__all__ = ["Verdict", "decide"]

INCONCLUSIVE = "INCONCLUSIVE"
NOT_RECOMMENDED = "NOT RECOMMENDED"
NO_EFFECT = "NO EFFECT WORTH 2 %"
SCALE_DEPENDENT = "SCALE-DEPENDENT"
RECOMMEND_UP_TO = "RECOMMEND UP TO C"
RECOMMEND = "RECOMMEND"


@dataclass(frozen=True)
class Verdict:
    """A verdict and its reason.

    Args:
        word: one of the fixed words.
        reason: the rule that matched, with its numbers.
        would_be: the word of the later rules when rule 0 (rates, hold-out) decided.
        demonstration: the study is too small for its own fit.
        rungs_needed: rungs of this spread that would show the pooled effect, or 2 % if that is
            less, with 80 % power; None when that does not apply.
        runs_needed: the same as runs of both arms, with as many seeds as now.
        p_holm: p value of the pooled multiplier by Holm's rule; None with one variant.
    """

    word: str
    reason: str
    would_be: str
    demonstration: bool
    rungs_needed: int | None
    runs_needed: int | None
    p_holm: float | None = None

    @property
    def text(self) -> str:
        """The verdict as it is printed everywhere."""
        return f"DEMONSTRATION: {self.word}" if self.demonstration else self.word

    def to_json(self) -> dict[str, Any]:
        """Return the fields, with the text."""
        values = dict(vars(self))
        return values | {"text": self.text, "p_holm": values.pop("p_holm")}


def decide(
    comparison: Comparison,
    *,
    tuned: bool,
    rate_problem: str | None = None,
    holdout_passed: bool | None,
    demonstration: bool,
    adjusted_p: float | None = None,
) -> Verdict:
    """Apply the rules.

    Args:
        tuned: both arms' learning rates were chosen by the same kind of search.
        rate_problem: why no verdict may rest on the rates that the search found, if so.
        holdout_passed: None if no rung was held out, which counts as failed.
        adjusted_p: `Verdict.p_holm`: with several variants a gain or a loss must hold with it too.
    """
    word, reason = _by_numbers(comparison)
    shown = adjusted_p is None or adjusted_p < 0.05
    if not shown and word in (NOT_RECOMMENDED, RECOMMEND_UP_TO, RECOMMEND):
        reason += f"; but among all variants p = {adjusted_p:.3f} (Holm)"
        word = INCONCLUSIVE
    rungs, runs = _runs_needed(comparison) if word == INCONCLUSIVE else (None, None)
    if rungs is not None:
        reason += f"; 80 % power would need {rungs} rungs, {runs} runs"
    blocked = rate_problem
    if not tuned:
        blocked = "the learning rates of the arms were not tuned"
    elif blocked is None and not holdout_passed:
        blocked = "the forecast of the held-out rung failed"
        if holdout_passed is None:
            blocked = "no rung was held out to test the forecast"
    found = word if blocked is None else INCONCLUSIVE
    reason = reason if blocked is None else f"{blocked}; {reason}"
    return Verdict(found, reason, word, demonstration, rungs, runs, adjusted_p)


def _by_numbers(comparison: Comparison) -> tuple[str, str]:
    """Apply rules 1 to 6 of the verdicts."""
    pooled, trend, ahead = comparison.pooled, comparison.trend, comparison.m_at_10x
    shown = f"pooled m = {pooled.value:.3f} (95 % {pooled.low_95:.3f} to {pooled.high_95:.3f})"
    if pooled.high_95 < 1:  # rule 1
        return NOT_RECOMMENDED, f"{shown}: the upper bound is below 1"
    if pooled.low_90 >= 1 / 1.02 and pooled.high_90 <= 1.02:  # rule 2
        return NO_EFFECT, (
            f"{shown}: the 90 % interval {pooled.low_90:.3f} to {pooled.high_90:.3f} "
            "lies within 2 %"
        )
    surely_above = any(rung.estimate.low_95 > 1 for rung in comparison.rungs)
    surely_below = any(rung.estimate.high_95 < 1 for rung in comparison.rungs)
    if surely_above and surely_below:  # rule 3
        return SCALE_DEPENDENT, f"{shown}: the sign changes inside the range"
    if math.isfinite(trend.value) and trend.high_95 < 0:  # rule 3 too
        return SCALE_DEPENDENT, (
            f"{shown}: ln m falls by {-trend.value * math.log(10):.3f} per decade of compute "
            f"(95 % {-trend.high_95 * math.log(10):.3f} to {-trend.low_95 * math.log(10):.3f})"
        )
    if pooled.low_95 > 1 and not ahead.low_95 > 1:  # rule 4
        return RECOMMEND_UP_TO, (
            f"{shown}; at 10 times the top rung m = {ahead.value:.3f}, "
            f"lower bound {ahead.low_95:.3f}"
        )
    if pooled.low_95 > 1.02 and ahead.value > 1:  # rule 5
        return RECOMMEND, f"{shown}; at 10 times the top rung m = {ahead.value:.3f}"
    return INCONCLUSIVE, f"{shown}: neither a gain nor its absence is shown"


def _runs_needed(comparison: Comparison) -> tuple[int | None, int | None]:
    """Return rungs and runs for 80 % power to see the pooled effect, or 2 % if it is less."""
    if comparison.rung_sd is None or not comparison.pooled.value > 0:
        return None, None
    effect = max(abs(math.log(comparison.pooled.value)), math.log(1.02))
    rungs = rungs_needed(effect, comparison.rung_sd)
    pairs = sum(len(rung.log_m) for rung in comparison.rungs) / len(comparison.rungs)
    return rungs, math.ceil(2 * rungs * pairs)
