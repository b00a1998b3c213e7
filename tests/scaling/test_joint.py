"""The joint law of a ladder: known laws come back, errors are honest, bad points are refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from ladderlm.errors import DataError
from ladderlm.scaling.joint import LadderLaw, fit_card, fit_law, holdout_errors
from ladderlm.scaling.points import RUNG_SHARE
from reference.ladders import BUDGETS, SLOPE, make_ladder, points_from


def bent(m=1.1, trend=0.0, floor=1.7, own_sd=0.0, n_seeds=2, seed=0, n_rungs=5):
    """Two arms on L = floor + 3 (m C / 1e13)^-0.16."""
    rng = np.random.default_rng(seed)
    budgets = [1e13 * 10 ** (k / 2) for k in range(n_rungs)]
    middle = math.exp(np.log(budgets).mean())
    rows = []
    for rung, x in enumerate(budgets):
        for s in range(n_seeds):
            for arm, gain in (("base", 0.0), ("new", math.log(m) + trend * math.log(x / middle))):
                loss = floor + 3 * (x * math.exp(gain) / 1e13) ** -0.16
                rows.append((arm, rung, s, x, loss * math.exp(rng.normal(0, own_sd))))
    return points_from(rows)


@settings(max_examples=15, deadline=None)
@given(
    m=st.floats(0.7, 1.5),
    trend=st.floats(-0.1, 0.1),
    floor=st.floats(0.5, 2.5),
    n_rungs=st.integers(4, 6),
)
def test_a_known_law_comes_back_from_noiseless_points(m, trend, floor, n_rungs):
    law = fit_law(bent(m, trend, floor, n_rungs=n_rungs), "base")
    said = law.to_json()
    assert said["E"] == pytest.approx(floor, rel=1e-3)
    assert said["c"] == pytest.approx(0.16, rel=1e-3)
    assert said["multipliers"]["new"]["k0"] == pytest.approx(math.log(m), abs=1e-4)
    assert said["multipliers"]["new"]["k1"] == pytest.approx(trend, abs=1e-4)
    beyond = np.array([1e17])
    assert law.predict("base", beyond) == pytest.approx(floor + 3 * 1e4**-0.16, rel=1e-4)
    reach = 3 * 1e4**-0.16
    assert law.slope(beyond) == pytest.approx(-0.16 * reach / (floor + reach), rel=1e-3)


def bending(m=1.1, own_sd=0.0, seed=0, n_rungs=5):
    """Two arms on ln L = ln 6 - 0.06 u - 0.0075 u^2 / 2, u = ln(m C / 1e13)."""
    rng = np.random.default_rng(seed)
    rows = []
    for rung in range(n_rungs):
        x = 1e13 * 10 ** (rung / 2)
        for s in range(2):
            for arm, gain in (("base", 0.0), ("new", math.log(m))):
                u = math.log(x / 1e13) + gain
                log_loss = math.log(6) - 0.06 * u - 0.0075 * u**2 / 2 + rng.normal(0, own_sd)
                rows.append((arm, rung, s, x, math.exp(log_loss)))
    return points_from(rows)


@pytest.mark.parametrize("n_rungs", [3, 4, 5])
@pytest.mark.parametrize("m", [0.8, 1.3])
def test_a_loss_that_falls_faster_and_faster_has_its_law_too(m, n_rungs):
    law = fit_law(bending(m, n_rungs=n_rungs), "base")
    said = law.to_json()
    middle = math.log(10) * (n_rungs - 1) / 4
    assert law.bend
    assert said["E"] == 0
    assert said["b"] == pytest.approx(0.0075, rel=1e-3)
    assert said["c"] == pytest.approx(0.06 + 0.0075 * middle, rel=1e-3)
    assert said["multipliers"]["new"]["k0"] == pytest.approx(math.log(m), abs=1e-3)
    u = math.log(1e3)
    assert law.slope(np.array([1e16])) == pytest.approx(-0.06 - 0.0075 * u, rel=1e-3)
    assert law.predict("base", np.array([1e16])) == pytest.approx(
        6 * math.exp(-0.06 * u - 0.0075 * u**2 / 2), rel=1e-3
    )
    assert law.slope_error < 1e-2
    assert "b free" in law.shape
    assert "faster and faster" in fit_card(law, bending(m, n_rungs=n_rungs), {})["floor"]


def test_a_floor_that_is_there_leaves_no_room_for_a_bend():
    """No noisy ladder with a floor of 1.7 is taken for one that bends down, and few are lines."""
    assert not any(fit_law(bent(own_sd=0.003, seed=seed), "base").bend for seed in range(20))
    found = [fit_law(bending(own_sd=0.003, seed=seed), "base") for seed in range(20)]
    assert all(law.bend for law in found)
    assert np.mean([law.to_json()["b"] for law in found]) == pytest.approx(0.0075, rel=0.1)


def test_below_three_rungs_the_law_is_a_line_in_logarithms():
    law = fit_law(make_ladder(1.1, budgets=BUDGETS[:2]), "base")
    assert not law.floor
    assert not law.trend
    assert law.slope(np.array([1e12, 1e15])) == pytest.approx([SLOPE, SLOPE], rel=1e-5)


def test_a_pure_power_law_has_no_floor_to_speak_of():
    law = fit_law(make_ladder(1.1), "base")
    assert law.to_json()["E"] < 0.02
    assert law.predict("base", np.array(BUDGETS)) == pytest.approx(
        [math.exp(1.2 + SLOPE * math.log(x / BUDGETS[2])) for x in BUDGETS], rel=1e-4
    )


@pytest.mark.parametrize("seed", range(2))
def test_the_fit_is_the_optimum_that_another_optimizer_finds(seed):
    """Weighted least squares of ln L on the means of cells, by scipy from the known truth."""
    points = bent(1.2, own_sd=0.003, seed=seed)
    points = points.where(np.arange(len(points)) != 5)  # one cell of a single run
    law = fit_law(points, "base")
    cells = {}
    for arm, x, loss in zip(points.arm, points.x, points.loss, strict=True):
        cells.setdefault((str(arm), float(x)), []).append(math.log(loss))
    x = np.array([x for _, x in cells])
    new = np.array([arm == "new" for arm, _ in cells])
    y = np.array([np.mean(v) for v in cells.values()])
    weight = np.array([1 / (RUNG_SHARE + 1 / len(v)) for v in cells.values()])

    def residuals(p):
        log_m = new * (p[3] + p[4] * np.log(x / 1e14))
        return np.sqrt(weight) * (np.log(p[0] + p[1] * (x / 1e13 * np.exp(log_m)) ** -p[2]) - y)

    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
    best = optimize.least_squares(residuals, [1.7, 3.0, 0.16, 0.18, 0.0], **tight)
    ours = [math.log(law.predict(arm, np.array([at]))[0]) for arm, at in cells]
    assert float(weight @ (np.array(ours) - y) ** 2) == pytest.approx(2 * best.cost, rel=1e-5)
    assert law.to_json()["E"] == pytest.approx(best.x[0], rel=5e-3)


def test_standard_errors_are_the_spread_of_simulated_fits():
    """The sd of 80 draws is known to 8 %; 30 % is nearly four of those."""
    ahead, stated, sigmas = [], [], []
    far = np.array([BUDGETS[-1] * 3])
    for seed in range(80):
        law = fit_law(bent(1.1, own_sd=0.004, seed=seed), "base")
        ahead.append(math.log(law.predict("new", far)[0]))
        stated.append(law.standard_error("new", far)[0] ** 2)
        sigmas.append(law.seed_sd**2)
    assert np.std(ahead) == pytest.approx(math.sqrt(np.mean(stated)), rel=0.3)
    assert math.sqrt(np.mean(sigmas)) == pytest.approx(0.004, rel=0.1)


def test_noise_that_seeds_do_not_average_away_is_noticed():
    """Rungs that scatter by far more than their seeds count by themselves."""
    rng = np.random.default_rng(0)
    quiet = [fit_law(make_ladder(own_sd=0.002, rng=rng), "base").sigma for _ in range(10)]
    loud = [
        fit_law(make_ladder(own_sd=0.002, rung_sd=0.02, rng=rng), "base").sigma for _ in range(10)
    ]
    assert np.median(loud) > 4 * np.median(quiet)


def test_units_of_compute_and_order_of_runs_do_not_matter():
    points = bent(1.1, own_sd=0.01)
    law = fit_law(points, "base")
    hours = points_from(
        list(zip(points.arm, points.rung, points.seed, points.x / 3600, points.loss, strict=True))
    )
    shuffled = points.where(np.random.default_rng(0).permutation(len(points)))
    for other, scale in ((fit_law(hours, "base"), 1 / 3600), (fit_law(shuffled, "base"), 1.0)):
        for arm in law.arms:
            at = np.array([3e13])
            # the optimum is flat along E and c: predictions are known better than parameters
            assert other.predict(arm, at * scale) == pytest.approx(law.predict(arm, at), rel=1e-6)


def test_a_law_comes_back_from_its_json():
    import json

    for points in (bent(1.1, own_sd=0.01), bending(own_sd=0.001)):
        law = fit_law(points, "base")
        assert LadderLaw.from_json(json.loads(json.dumps(law.to_json()))) == law


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
    assert law.slope(np.array([1e2])) == pytest.approx([0.0], abs=1e-4)
    assert law.predict("base", np.array([1e9])) == pytest.approx([2.5], rel=1e-4)
    law = fit_law(points_from([("base", i, 0, 10.0 ** (308 - i), 1e300) for i in range(4)]))
    assert np.isfinite([*law.theta, law.sigma]).all()


def test_held_out_rungs_are_predicted_from_the_lower_ones_alone():
    points = bent(1.1, own_sd=0.005, seed=3)
    rows = holdout_errors(points, 1, "base")
    law = fit_law(points.where(points.rung < 4), "base")
    assert [(r["arm"], r["rung"], r["n_runs"]) for r in rows] == [("base", 4, 2), ("new", 4, 2)]
    for row in rows:
        own = points.where((points.rung == 4) & (points.arm == row["arm"]))
        assert row["predicted"] == pytest.approx(law.predict(row["arm"], own.x[:1])[0])
        assert row["actual"] == pytest.approx(math.exp(np.log(own.loss).mean()))
        assert row["relative_error"] == pytest.approx(row["predicted"] / row["actual"] - 1)
    changed = bent(1.1, own_sd=0.005, seed=3)
    changed.loss[changed.rung == 4] *= 1.3
    for before, after in zip(rows, holdout_errors(changed, 1, "base"), strict=True):
        assert after["predicted"] == before["predicted"]
        assert after["sigma"] == before["sigma"]
        assert not after["passed"]


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.0049, True), (1.0053, False)])
def test_without_noise_a_forecast_may_miss_by_half_a_percent(factor, passed):
    points = bent(1.1)
    points.loss[points.rung == 4] *= factor
    assert {row["passed"] for row in holdout_errors(points, 1, "base")} == {passed}


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
    assert card["n_cells"] == 10
    assert card["rungs"] == [0, 1, 2, 3, 4]
    assert card["compute_range"] == [BUDGETS[0], BUDGETS[-1]]
    assert card["excluded"] == {"abc": "the loss is not finite"}
    assert {"form", "loss", "optimizer", "starts", "weights", "version"} <= set(card)
