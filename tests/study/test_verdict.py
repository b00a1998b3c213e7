"""Verdicts: each fixed word by its rule, the first rule that matches wins."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ladderlm.scaling.compare import compare_arms
from ladderlm.study.verdict import decide
from reference.ladders import make_comparison, make_estimate, make_ladder

FINE = {"tuned": True, "holdout_passed": True, "demonstration": False}
FLAT = make_estimate(0.0, 0.02)  # no trend to speak of
FALLING = make_estimate(-0.03, 0.02)
RISING = make_estimate(0.03, 0.02)
GAIN, HARM, NIL, WIDE, SMALL = (
    make_estimate(1.20, 0.05),
    make_estimate(0.90, 0.05),
    make_estimate(1.00, 0.015),
    make_estimate(1.10, 0.30),
    make_estimate(1.010, 0.008, 0.007),
)
AHEAD, DOUBT, BEHIND = make_estimate(1.15, 0.1), make_estimate(1.15, 0.4), make_estimate(0.9, 0.4)
CROSSING = ((1.2, 0.1), (1.0, 0.3), (0.8, 0.1))

CASES = {
    "1 the upper bound is below 1": ("NOT RECOMMENDED", HARM, FLAT, BEHIND, ()),
    "1 before 2": ("NOT RECOMMENDED", make_estimate(0.99, 0.005), FLAT, BEHIND, ()),
    "1 before 3": ("NOT RECOMMENDED", HARM, FALLING, BEHIND, CROSSING),
    "2 the 90 % interval is inside": ("NO EFFECT WORTH 2 %", NIL, FLAT, AHEAD, ()),
    "2 the 95 % interval may stick out": (
        "NO EFFECT WORTH 2 %",
        make_estimate(1.0, 0.03, 0.019),
        FLAT,
        AHEAD,
        (),
    ),
    "2 does not hold at 2.1 %": (
        "INCONCLUSIVE",
        make_estimate(1.0, 0.03, 0.021),
        FLAT,
        AHEAD,
        (),
    ),
    "2 before 3": ("NO EFFECT WORTH 2 %", NIL, FALLING, BEHIND, CROSSING),
    "2 even when surely above 1": ("NO EFFECT WORTH 2 %", SMALL, FLAT, AHEAD, ()),
    "3 the sign changes": ("SCALE-DEPENDENT", WIDE, FLAT, AHEAD, CROSSING),
    "3 the trend falls": ("SCALE-DEPENDENT", GAIN, FALLING, AHEAD, ()),
    "3 before 4": ("SCALE-DEPENDENT", GAIN, FALLING, BEHIND, ()),
    "3 not when it rises": ("RECOMMEND", GAIN, RISING, AHEAD, ()),
    "3 not when one side is unsure": (
        "INCONCLUSIVE",
        WIDE,
        FLAT,
        AHEAD,
        ((1.2, 0.1), (1.0, 0.3), (0.8, 0.3)),
    ),
    "4 doubtful at 10x": ("RECOMMEND UP TO C", GAIN, FLAT, DOUBT, ()),
    "4 worse at 10x": ("RECOMMEND UP TO C", GAIN, FLAT, BEHIND, ()),
    "4 unknown at 10x": ("RECOMMEND UP TO C", GAIN, None, None, ()),
    "5 a gain here and ahead": ("RECOMMEND", GAIN, FLAT, AHEAD, ()),
    "5 needs more than 2 %": ("INCONCLUSIVE", make_estimate(1.04, 0.03), FLAT, AHEAD, ()),
    "6 all else": ("INCONCLUSIVE", WIDE, FLAT, AHEAD, ()),
    "6 nothing is bounded": (
        "INCONCLUSIVE",
        make_estimate(1.3, math.inf, math.inf),
        None,
        None,
        (),
    ),
}


@pytest.mark.parametrize(("word", "pooled", "trend", "ahead", "rungs"), CASES.values(), ids=CASES)
def test_the_first_rule_that_matches_gives_the_word(word, pooled, trend, ahead, rungs):
    comparison = make_comparison(pooled, trend, ahead, rungs or ((1.0, 0.5),) * 3)
    verdict = decide(comparison, **FINE)
    assert verdict.word == verdict.text == verdict.would_be == word
    assert f"{pooled.value:.3f}" in verdict.reason


BLOCKED = {
    "not tuned": ({"tuned": False}, "learning rates of the arms were not tuned"),
    "rates": ({"rate_problem": "arm new: the check failed"}, "arm new: the check failed; pooled"),
    "no hold-out": ({"holdout_passed": None}, "no rung was held out"),
    "failed hold-out": ({"holdout_passed": False}, "forecast of the held-out rung failed"),
}


@pytest.mark.parametrize(("change", "reason"), BLOCKED.values(), ids=BLOCKED)
@pytest.mark.parametrize(
    ("pooled", "would_be"),
    [(GAIN, "RECOMMEND"), (HARM, "NOT RECOMMENDED"), (NIL, "NO EFFECT WORTH 2 %")],
)
def test_rule_0_comes_before_all_others_and_says_what_would_have_been(
    change, reason, pooled, would_be
):
    verdict = decide(make_comparison(pooled, FLAT, AHEAD), **{**FINE, **change})
    assert verdict.word == "INCONCLUSIVE"
    assert verdict.would_be == would_be
    assert reason in verdict.reason
    assert "pooled m" in verdict.reason


@pytest.mark.parametrize("pooled", [GAIN, HARM, NIL, WIDE])
@pytest.mark.parametrize("tuned", [True, False])
def test_a_study_too_small_for_its_fit_says_demonstration(pooled, tuned):
    options = {**FINE, "tuned": tuned}
    plain = decide(make_comparison(pooled, FLAT, AHEAD), **options)
    small = decide(make_comparison(pooled, FLAT, AHEAD), **{**options, "demonstration": True})
    assert small.text == f"DEMONSTRATION: {plain.word}"
    assert small.word == plain.word


def test_the_number_of_runs_needed_gives_the_power_it_promises():
    """By drawing: t tests of that many rungs see the effect in about 80 % of 2,000 studies."""
    comparison = make_comparison(make_estimate(1.05, 0.3), FLAT, AHEAD, log_m=[-0.05, 0.05, 0.15])
    verdict = decide(comparison, **FINE)
    n = verdict.rungs_needed
    assert verdict.runs_needed == 2 * n
    assert verdict.reason.endswith(f"; 80 % power would need {n} rungs, {2 * n} runs")
    draws = np.random.default_rng(0).normal(math.log(1.05), 0.1, (2000, n))
    t_value = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * math.sqrt(n)
    assert np.mean(t_value > stats.t.ppf(0.975, n - 1)) == pytest.approx(0.81, abs=0.03)


def test_the_number_of_rungs_needed_never_asks_for_less_than_two_percent():
    """An effect of nothing would need infinitely many: 2 % is what counts."""
    nothing = make_comparison(make_estimate(1.0, 0.3), FLAT, AHEAD, log_m=[-0.1, 0.0, 0.1])
    two = make_comparison(make_estimate(1.02, 0.3), FLAT, AHEAD, log_m=[-0.1, 0.0, 0.1])
    assert decide(nothing, **FINE).rungs_needed == decide(two, **FINE).rungs_needed > 100
    assert decide(make_comparison(GAIN, FLAT, AHEAD), **FINE).rungs_needed is None
    one = make_comparison(WIDE, rungs=((1.1, 0.3),))
    assert decide(one, **FINE).rungs_needed is None


@pytest.mark.parametrize(("pooled", "word"), [(GAIN, "RECOMMEND"), (HARM, "NOT RECOMMENDED")])
def test_among_many_variants_an_effect_must_hold_after_correction(pooled, word):
    pooled = replace(pooled, p_value=0.02)
    comparison = make_comparison(pooled, FLAT, AHEAD)
    assert decide(comparison, **FINE, adjusted_p=0.04).word == word
    verdict = decide(comparison, **FINE, adjusted_p=0.08)
    assert verdict.word == "INCONCLUSIVE"
    assert "p = 0.080 (Holm)" in verdict.reason


@settings(max_examples=25, deadline=None)
@given(
    m=st.floats(0.7, 1.4),
    trend=st.floats(-0.1, 0.1),
    noise=st.floats(0, 0.02),
    n_rungs=st.integers(1, 5),
    n_seeds=st.integers(2, 3),
)
def test_every_comparison_gets_one_of_the_fixed_words(m, trend, noise, n_rungs, n_seeds):
    budgets = tuple(10.0 ** (13 + k / 2) for k in range(max(n_rungs, 2)))
    points = make_ladder(m, trend=trend, budgets=budgets, n_seeds=n_seeds, own_sd=noise)
    comparison = compare_arms(points, "base", "new")
    verdict = decide(comparison, **FINE)
    assert verdict.word in {
        "NOT RECOMMENDED",
        "NO EFFECT WORTH 2 %",
        "SCALE-DEPENDENT",
        "RECOMMEND UP TO C",
        "RECOMMEND",
        "INCONCLUSIVE",
    }
    if verdict.word.startswith("RECOMMEND"):
        assert comparison.pooled.low_95 > 1
    if verdict.word == "NOT RECOMMENDED":
        assert comparison.pooled.high_95 < 1
