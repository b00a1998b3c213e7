"""Fits: known laws come back, errors are those of a simulation, bad points are refused."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.errors import DataError
from ladderlm.scaling.joint import fit_card, fit_law, holdout_errors
from reference.ladders import BUDGETS, SLOPE, make_ladder, points_from
from reference.least_squares import log_linear


@given(
    slope=st.floats(-0.5, -0.005),
    offsets=st.lists(st.floats(-1, 2), min_size=1, max_size=3),
    low=st.floats(8, 20),
    decades=st.floats(0.5, 4),
)
def test_a_known_law_comes_back_from_noiseless_points(slope, offsets, low, decades):
    budgets = 10 ** np.linspace(low, low + decades, 4)
    middle = math.exp(np.log(budgets).mean())
    points = points_from(
        [
            (f"arm-{i}", rung, 0, x, math.exp(offset + slope * math.log(x / middle)))
            for i, offset in enumerate(offsets)
            for rung, x in enumerate(budgets)
        ]
    )
    law = fit_law(points)
    # float64, logarithms up to 55: 1e-9 leaves room for the conditioning of X'X
    assert law.slope == pytest.approx(slope, abs=1e-9)
    assert law.intercepts == pytest.approx(offsets, abs=1e-9)
    assert law.c_ref == pytest.approx(middle, rel=1e-9)
    assert law.arms == tuple(f"arm-{i}" for i in range(len(offsets)))
    assert law.sigma < 1e-9
    beyond = np.array([middle / 100, middle * 1e4])
    for arm, offset in zip(law.arms, offsets, strict=True):
        wanted = np.exp(offset + slope * np.log(beyond / middle))
        assert law.predict(arm, beyond) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_equals_the_normal_equations_in_plain_loops(seed):
    points = make_ladder(1.2, own_sd=0.01, rng=np.random.default_rng(seed))
    points = points.where(np.arange(len(points)) != 5)  # unbalanced
    law = fit_law(points)
    solution, covariance, sigma = log_linear(points.arm, points.x, points.loss)
    assert [*law.intercepts, law.slope] == pytest.approx(solution, rel=1e-9)
    assert np.array(law.covariance) == pytest.approx(np.array(covariance), rel=1e-6, abs=1e-15)
    assert law.sigma == pytest.approx(sigma, rel=1e-9)
    assert law.degrees_of_freedom == len(points) - 3


def test_standard_errors_are_the_spread_of_simulated_fits():
    rng = np.random.default_rng(1)
    far = np.array([BUDGETS[-1] * 10])
    slopes, ahead, stated_slope, stated_ahead, sigmas = [], [], [], [], []
    for _ in range(600):
        law = fit_law(make_ladder(1.1, own_sd=0.01, rng=rng))
        slopes.append(law.slope)
        ahead.append(math.log(law.predict("new", far)[0]))
        stated_slope.append(law.covariance[-1][-1])
        stated_ahead.append(law.standard_error("new", far)[0] ** 2)
        sigmas.append(law.sigma**2)
    # the sd of 600 draws is known to 3 %; 12 % is four of those
    assert np.std(slopes) == pytest.approx(math.sqrt(np.mean(stated_slope)), rel=0.12)
    assert np.std(ahead) == pytest.approx(math.sqrt(np.mean(stated_ahead)), rel=0.12)
    assert math.sqrt(np.mean(sigmas)) == pytest.approx(0.01, rel=0.03)
    assert np.mean(slopes) == pytest.approx(SLOPE, abs=4 * np.std(slopes) / math.sqrt(600))


def test_units_of_compute_and_order_of_runs_do_not_matter():
    points = make_ladder(1.1, own_sd=0.01)
    law = fit_law(points)
    hours = points_from(
        list(zip(points.arm, points.rung, points.seed, points.x / 3600, points.loss, strict=True))
    )
    shuffled = points.where(np.random.default_rng(0).permutation(len(points)))
    for other, scale in ((fit_law(hours), 1 / 3600), (fit_law(shuffled), 1.0)):
        assert other.slope == pytest.approx(law.slope, rel=1e-9)
        for arm in law.arms:
            at = np.array([3e13])
            assert other.predict(arm, at * scale) == pytest.approx(law.predict(arm, at), rel=1e-9)


FLAT = {"same x": [1e13, 1e13, 1e13, 1e13], "two": [1e13, 1e14]}


@pytest.mark.parametrize("x", FLAT.values(), ids=FLAT)
def test_too_few_points_say_so(x):
    """P03: one run, one rung, two runs: no line is drawn."""
    rows = [("base", i, i, value, 3.0 - i / 10) for i, value in enumerate(x)]
    with pytest.raises(DataError, match="not enough points") as caught:
        fit_law(points_from(rows))
    assert "add rungs or seeds" in caught.value.fix


def test_no_points_at_all_say_so():
    """P03: an empty study."""
    with pytest.raises(DataError, match="not enough points"):
        fit_law(points_from([]))


def test_arms_at_one_budget_each_are_not_enough():
    """P03: whether arm or compute made the difference cannot be told apart."""
    rows = [("base", 0, seed, 1e13, 3.0) for seed in range(3)]
    rows += [("new", 1, seed, 1e14, 2.8) for seed in range(3)]
    with pytest.raises(DataError, match="not enough points"):
        fit_law(points_from(rows))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", ["x", "loss"])
def test_values_without_a_logarithm_are_refused_and_counted(value, axis):
    """P03: NaN, infinite, zero and negative FLOPs or losses."""
    points = make_ladder(1.1)
    getattr(points, axis)[3:5] = value
    with pytest.raises(DataError, match=f"2 of {len(points)} points are not positive finite"):
        fit_law(points)


def test_zero_variance_and_enormous_values_are_fitted():
    """P03: equal losses give slope 0; 1e308 is a number."""
    rows = [("base", i, 0, 10.0**i, 2.5) for i in range(4)]
    law = fit_law(points_from(rows))
    assert law.slope == pytest.approx(0.0, abs=1e-12)
    assert law.predict("base", np.array([1e9])) == pytest.approx([2.5])
    law = fit_law(points_from([("base", i, 0, 10.0 ** (308 - i), 1e308) for i in range(4)]))
    assert np.isfinite([*law.intercepts, law.slope, law.sigma]).all()


def test_held_out_rungs_are_predicted_from_the_lower_ones_alone():
    points = make_ladder(1.1, own_sd=0.005, rng=np.random.default_rng(3))
    rows = holdout_errors(points, 1)
    law = fit_law(points.where(points.rung < 4))
    assert [(r["arm"], r["rung"], r["seed"]) for r in rows] == [
        (arm, 4, seed) for seed, arm in itertools.product((0, 1), ("base", "new"))
    ]
    for row in rows:
        assert row["predicted"] == pytest.approx(law.predict(row["arm"], np.array([row["x"]]))[0])
        assert row["relative_error"] == pytest.approx(row["actual"] / row["predicted"] - 1)
    changed = make_ladder(1.1, own_sd=0.005, rng=np.random.default_rng(3))
    changed.loss[changed.rung == 4] *= 1.3
    for before, after in zip(rows, holdout_errors(changed, 1), strict=True):
        assert after["predicted"] == before["predicted"]
        assert after["sigma"] == before["sigma"]
        assert not after["passed"]


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.0049, True), (1.0051, False)])
def test_without_noise_a_forecast_may_miss_by_half_a_percent(factor, passed):
    points = make_ladder(1.1)
    points.loss[points.rung == 4] *= factor
    assert {row["passed"] for row in holdout_errors(points, 1)} == {passed}


def test_forecasts_pass_about_as_often_as_their_sigma_says():
    rng = np.random.default_rng(5)
    rows = [r for _ in range(150) for r in holdout_errors(make_ladder(own_sd=0.02, rng=rng), 1)]
    share = np.mean([row["passed"] for row in rows])
    assert 0.90 < share < 0.99  # two sigma with 13 degrees of freedom: 93 %, runs of one fit tied


def test_holding_out_all_but_one_rung_is_refused():
    points = make_ladder(1.1)
    assert {row["rung"] for row in holdout_errors(points, 2)} == {3, 4}
    with pytest.raises(DataError, match="not enough points"):
        holdout_errors(points, 4)


def test_an_arm_that_has_no_lower_rung_cannot_be_forecast():
    """S02: all lower runs of an arm failed; the error says so instead of a traceback."""
    points = make_ladder(1.1)
    points = points.where((points.arm == "base") | (points.rung == 4))
    with pytest.raises(DataError, match="new"):
        holdout_errors(points, 1)


def test_the_card_says_what_decides_the_numbers():
    points = make_ladder(1.1)
    card = fit_card(fit_law(points), points, {"abc": "the loss is not finite"})
    assert card["n_used"] == 20
    assert card["degrees_of_freedom"] == 17
    assert card["rungs"] == [0, 1, 2, 3, 4]
    assert card["compute_range"] == [BUDGETS[0], BUDGETS[-1]]
    assert card["excluded"] == {"abc": "the loss is not finite"}
    assert {"form", "loss", "optimizer", "starts", "weights", "version"} <= set(card)
