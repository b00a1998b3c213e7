"""The runs that find the learning rate of an arm, stage by stage.

Owns the stages: a bracket on each of the two lowest rungs, then one on the third around the rate
that their power law predicts, to check the law. Each stage is planned from the finished runs of the
one before, so an interrupted study resumes where it was.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from ladderlm.study.planner import PlannedRate, PlannedRun, Planner
from ladderlm.study.spec import Arm
from ladderlm.study.tuning import FACTOR, Bracket, Tuning, fit_bracket, fit_rate_law, grid

__all__ = ["tune_arm"]

BRACKET_RUNGS, BRACKET_POINTS, CHECK_POINTS = 2, 5, 3
MAX_POINTS = 9  # a grid whose best point is at an end grows on that side up to this size
# Losses that differ by less are a tie. High rates are noisy, and above them runs diverge: where the
# rate below the best ties with it, the best may be lower still. A law whose rate ties with the best
# of its check has passed it; the rest of its error is in the regret.
TIE = 0.005


def tune_arm(planner: Planner, arm: Arm) -> tuple[list[PlannedRun], Tuning]:
    """Plan the search of one arm as far as its finished runs allow.

    Returns:
        The runs of the search, those of later stages provisional, and its state.
    """
    flops = planner.spec.ladder.flops
    centre = planner.spec.arm_config(arm).optim.learning_rate
    runs: list[PlannedRun] = []
    brackets: list[Bracket] = []
    for index in range(min(BRACKET_RUNGS, len(flops))):
        tried, bracket = _plan_bracket(planner, arm, index, grid(centre, BRACKET_POINTS))
        runs += tried
        brackets += [] if bracket is None else [bracket]
    checked = len(flops) > BRACKET_RUNGS
    tuning = Tuning(arm.name, brackets=tuple(brackets), budgets=flops)
    if len(brackets) < min(BRACKET_RUNGS, len(flops)):
        if checked:
            runs += _grid_runs(planner, arm, BRACKET_RUNGS, grid(centre, CHECK_POINTS), True)
        return runs, tuning
    law = fit_rate_law(brackets)
    problem = None
    if checked:
        predicted = law.rate(flops[BRACKET_RUNGS])
        rates = grid(predicted, CHECK_POINTS)
        tried, check = _plan_bracket(planner, arm, BRACKET_RUNGS, rates)
        runs += tried
        if check is None:
            return runs, replace(tuning, law=law)
        brackets.append(check)
        law = fit_rate_law(brackets)
        behind = check.losses[check.rates.index(predicted)] / min(check.losses) - 1
        if not behind <= TIE:
            lost = f"and a run lost {behind:.1%} by it" if behind < math.inf else "and it diverged"
            problem = (
                f"the power law of the rates failed its check: at rung {BRACKET_RUNGS + 1} it "
                f"gave {predicted:g} where {check.best_rate:.3g} is best, {lost}"
            )
    for bracket in brackets[:BRACKET_RUNGS]:
        if bracket.edge:
            problem = (
                f"the best rate of rung {bracket.rung + 1}, {bracket.best_rate:.3g}, lies on the "
                f"edge of its grid, {bracket.rates[0]:.3g} to {bracket.rates[-1]:.3g}"
            )
    found = tuple(brackets)
    return runs, replace(tuning, done=True, problem=problem, brackets=found, law=law)


def _plan_bracket(
    planner: Planner, arm: Arm, index: int, rates: list[float]
) -> tuple[list[PlannedRun], Bracket | None]:
    """Plan a grid, extended while its best point may be outside; None while runs are missing."""
    while True:
        tried = _grid_runs(planner, arm, index, rates)
        losses = planner.losses_of(tried)
        if losses is None:
            return tried, None
        bracket = fit_bracket(index, planner.spec.ladder.flops[index], rates, losses)
        best = losses.index(min(losses))
        low = best == 0 or (best == 1 and losses[0] <= losses[1] * (1 + TIE))
        if not (low or bracket.edge) or len(rates) == MAX_POINTS:
            return tried, bracket
        rates = [rates[0] / FACTOR, *rates] if low else [*rates, rates[-1] * FACTOR]


def _grid_runs(
    planner: Planner, arm: Arm, index: int, rates: Sequence[float], provisional: bool = False
) -> list[PlannedRun]:
    seed, planned = planner.spec.ladder.seeds[0], [PlannedRate(rate, provisional) for rate in rates]
    return [planner.run(arm, index, seed, rate, "bracket") for rate in planned]
