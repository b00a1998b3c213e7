"""Made-up studies judged by the code that judges real ones: intervals, verdicts and forecasts.

100 studies a case with a fixed seed; bounds are those of docs/scaling.md, wider by three binomial
standard errors of 100 (2.2 % at 95 %). `make simulate` draws 1,000.
"""

import math

import numpy as np
import pytest

from ladderlm.scaling.statistical_power import Noise, detectable_gain, detection_power
from ladderlm.study.simulate import CASES, Planted, draw_losses, simulate

N_STUDIES = 100


def some_cases():
    """Return all cases that do not fall; two of them are drawn each time."""
    quick = ("m = 1.00", "m = 1.20")
    return [
        pytest.param(case, marks=() if case in quick else pytest.mark.long)
        for case in CASES
        if "falling" not in case
    ]


@pytest.fixture(scope="module", params=some_cases())
def simulated(request):
    return CASES[request.param], simulate(CASES[request.param], N_STUDIES, seed=1)


def test_intervals_cover_what_was_planted(simulated):
    planted, found = simulated
    assert found["coverage_95"] >= 0.88
    assert 0.81 <= found["coverage_90"] <= 0.99
    assert found["trend_coverage_95"] >= 0.88
    assert found["median_m"] == pytest.approx(planted.low, rel=0.01)


def test_forecasts_hit_as_often_as_they_say(simulated):
    _, found = simulated
    assert 0.78 <= found["forecast_coverage_90"] <= 0.98
    assert found["forecast_half_width"] <= 0.01


def test_nothing_is_recommended_where_nothing_was_planted(simulated):
    planted, found = simulated
    gains = sum(p for word, p in found["words_by_numbers"].items() if word.startswith("RECOMMEND"))
    if planted.low == 1.0:
        assert gains <= 0.05
    if planted.low == 1.2:
        assert gains >= 0.9


def test_planning_foretells_the_power(simulated):
    _, found = simulated
    assert found["power"] == pytest.approx(found["predicted_power"], abs=0.1)


def test_a_gain_that_shrinks_is_called_scale_dependent():
    found = simulate(CASES["m = 1.40 falling to 1.05"], N_STUDIES, seed=1)
    assert found["words_by_numbers"].get("SCALE-DEPENDENT", 0) >= 0.95
    assert found["words"].get("SCALE-DEPENDENT", 0) >= 0.8
    assert "coverage_95" not in found


def test_the_drawn_noise_is_the_planted_one():
    noise = Noise(0.02, 0.01)
    rng = np.random.default_rng(0)
    drawn = [draw_losses(Planted(noise=noise, n_rungs=2, n_seeds=3), rng) for _ in range(400)]
    log_loss = np.log([points.loss for points in drawn]).reshape(400, 2, 2, 3)
    cells = log_loss.var(axis=3, ddof=1).mean()
    differences = log_loss[:, 0] - log_loss[:, 1]
    inside = differences.var(axis=2, ddof=1).mean()
    # 1,600 and 800 cells of 2 degrees of freedom: known to 2.5 and 3.5 %
    assert cells == pytest.approx(0.02**2, rel=0.1)
    assert inside == pytest.approx(2 * 0.02**2 / 2, rel=0.15)
    means = differences.mean(axis=2).var(ddof=1)
    assert means == pytest.approx(2 * 0.01**2 + inside / 3, rel=0.15)


# Power of a 5 % and a 10 % gain, as the method's own simulations have it.
TARGETS = {"5 rungs of 2": ([2] * 5, 0.85, 1.00), "3 rungs of 3": ([3] * 3, 0.50, 0.92)}


@pytest.mark.parametrize(("seeds", "five", "ten"), TARGETS.values(), ids=TARGETS)
def test_the_planning_noise_gives_the_powers_it_stands_for(seeds, five, ten):
    assert detection_power(1.05, seeds) == pytest.approx(five, abs=0.05)
    assert detection_power(1.10, seeds) == pytest.approx(ten, abs=0.05)


@pytest.mark.parametrize("power", [0.8, 0.95])
def test_the_detectable_gain_has_the_power_asked_for(power):
    gain = detectable_gain(power, [3, 2, 2, 2])
    assert detection_power(gain, [3, 2, 2, 2]) == pytest.approx(power, abs=1e-3)
    assert detectable_gain(power, [2] * 5) < gain
    assert detection_power(1.0, [2] * 5) == pytest.approx(0.025, abs=1e-6)


def test_one_rung_sees_nothing():
    assert detection_power(1.5, [9]) == 0.0
    assert detectable_gain(0.8, [9]) == math.inf
