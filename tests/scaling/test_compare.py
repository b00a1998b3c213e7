"""Compute multipliers: by hand on few points, and by simulation of studies with known truth."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ladderlm.errors import DataError
from ladderlm.scaling.compare import compare_arms
from reference.ladders import BUDGETS, SLOPE, make_ladder, points_from

NOISE = {"shared_sd": 0.004, "own_sd": 0.002, "rung_sd": 0.001}


def two_rungs(loss_new, x_new=1.0):
    """Base on L = 3 C^-0.1 exactly at 1 and 10 (in units of 1e12); new at x_new times that."""
    rows = []
    for rung, x in enumerate((1.0, 10.0)):
        rows.append(("base", rung, 0, 1e12 * x, 3 * x**-0.1))
        rows.append(("new", rung, 0, 1e12 * x * x_new, loss_new * x**-0.1))
    return points_from(rows)


def test_the_multiplier_of_two_points_is_the_one_by_hand():
    """L_new = 0.98 L_base; 3 (m C)^-0.1 = 0.98 * 3 C^-0.1 gives m = 0.98^-10."""
    found = compare_arms(two_rungs(3 * 0.98), "base", "new")
    wanted = 0.98**-10
    assert found.law.slope(np.array([1e12, 1e13])) == pytest.approx([-0.1, -0.1])
    assert [rung.estimate.value for rung in found.rungs] == pytest.approx([wanted, wanted])
    assert found.pooled.value == pytest.approx(wanted)
    assert [rung.x for rung in found.rungs] == pytest.approx([1e12, 1e13])
    assert [rung.log_m for rung in found.rungs] == [
        pytest.approx((math.log(wanted),)),
        pytest.approx((math.log(wanted),)),
    ]


@pytest.mark.parametrize("x_new", [0.9, 1.0, 1.15])
def test_a_pair_of_unequal_compute_is_corrected_along_the_line(x_new):
    """With x_new times the compute and the baseline's own line, the multiplier is 1."""
    on_the_line = two_rungs(3 * x_new**-0.1, x_new)
    assert compare_arms(on_the_line, "base", "new").pooled.value == pytest.approx(1.0)
    better = two_rungs(3 * 0.98 * x_new**-0.1, x_new)
    assert compare_arms(better, "base", "new").pooled.value == pytest.approx(0.98**-10)


def test_swapping_the_arms_inverts_the_multiplier():
    points = make_ladder(1.15, **NOISE, rng=np.random.default_rng(2))
    there, back = compare_arms(points, "base", "new"), compare_arms(points, "new", "base")
    assert there.pooled.value * back.pooled.value == pytest.approx(1.0, rel=2e-3)
    assert there.pooled.low_95 * back.pooled.high_95 == pytest.approx(1.0, rel=2e-3)
    assert there.trend.value == pytest.approx(-back.trend.value, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("trend", [-0.05, 0.0, 0.03])
@pytest.mark.parametrize("m", [0.9, 1.0, 1.3])
def test_planted_multiplier_and_trend_come_back_without_noise(m, trend):
    found = compare_arms(make_ladder(m, trend=trend), "base", "new")
    assert math.log(found.pooled.value) == pytest.approx(math.log(m), rel=0.04, abs=1e-3)
    assert found.trend.value == pytest.approx(trend, rel=1e-3, abs=1e-4)
    at = math.log(BUDGETS[-1] * 10 / BUDGETS[2])
    assert math.log(found.m_at_10x.value) == pytest.approx(
        math.log(m) + trend * at, rel=0.04, abs=1e-2
    )


def test_the_local_slope_is_used_where_the_law_bends():
    """A constant multiplier is worth less in loss where the floor is near, and no trend is seen."""
    rows = []
    for rung, x in enumerate(BUDGETS):
        for arm, m in (("base", 1.0), ("new", 1.2)):
            rows.append((arm, rung, 0, x, 1.7 + 4 * (m * x / 1e13) ** -0.16))
    found = compare_arms(points_from(rows), "base", "new")
    assert [r.estimate.value for r in found.rungs] == pytest.approx([1.2] * 5, rel=1e-3)
    assert found.trend.value == pytest.approx(0.0, abs=1e-3)
    assert found.pooled.value == pytest.approx(1.2, rel=1e-3)


def test_seed_noise_is_measured_and_pairing_takes_it_out_of_the_multiplier():
    rng = np.random.default_rng(9)
    shared = [compare_arms(make_ladder(shared_sd=0.01, rng=rng), "base", "new") for _ in range(30)]
    own = [compare_arms(make_ladder(own_sd=0.01, rng=rng), "base", "new") for _ in range(30)]
    for studies in (shared, own):
        variance = np.mean([s.seed_sd**2 for s in studies])
        assert math.sqrt(variance) == pytest.approx(0.01, rel=0.2)  # 10 degrees of freedom each
    for study in shared:
        for rung in study.rungs:
            assert rung.log_m == pytest.approx([rung.log_m[0]] * len(rung.log_m), rel=1e-6)


@pytest.mark.parametrize("lucky", [pytest.param(0.0, marks=pytest.mark.long), 0.006])
def test_seeds_that_are_lucky_on_all_rungs_widen_the_interval(lucky):
    """Coverage of 95 % intervals, 100 draws of 8 seeds: a binomial sd of 2 to 3 %."""
    rng = np.random.default_rng(4)
    inside = []
    for _ in range(100):
        points = make_ladder(1.1, n_seeds=8, own_sd=0.003, rung_sd=0.001, rng=rng)
        luck = rng.normal(0, lucky, (2, 8))[(points.arm == "new").astype(int), points.seed]
        found = compare_arms(replace(points, loss=points.loss * np.exp(luck)), "base", "new")
        inside.append(found.pooled.low_95 <= 1.1 <= found.pooled.high_95)
    assert np.mean(inside) >= 0.82  # 0.68 without `luck` at 0.006, which is shrunk


def test_the_luck_of_seeds_is_the_one_by_hand():
    """Two seeds on five rungs, d = s ln m +- 0.01 on all of them, and rungs without any scatter."""
    points = make_ladder(1.1)
    luck = np.where(points.arm == "new", np.where(points.seed == 0, 0.01, -0.01), 0.0)
    found = compare_arms(replace(points, loss=points.loss * np.exp(luck)), "base", "new")
    still = compare_arms(replace(points, loss=points.loss), "base", "new")
    assert math.log(found.pooled.value) == pytest.approx(math.log(1.1), rel=1e-3)
    # Each rung's share of ln m is 1 / (5 s); a mean of two has the variance 2 * 0.01^2 / 2 as its
    # only known part; a third of what five of them add together beyond what they add apart counts.
    alone = 5 * (0.01 / 5 / SLOPE) ** 2
    luck_of_seeds = (25 - 5) * (0.01 / 5 / SLOPE) ** 2 / 3
    t = float(stats.t.ppf(0.975, 4))
    half = (math.log(found.pooled.high_95) - math.log(found.pooled.low_95)) / 2
    least = alone * float(stats.f.ppf(0.2, 4, 5))
    wanted = math.hypot(t * math.sqrt(least), 1.96 * math.sqrt(luck_of_seeds))
    assert half == pytest.approx(wanted, rel=1e-2)
    assert still.pooled.high_95 < 1.101


def test_one_seed_has_no_seed_noise():
    assert compare_arms(make_ladder(n_seeds=1), "base", "new").seed_sd is None


def test_an_answer_beyond_the_baseline_is_flagged():
    """At the top rung a gain names a compute that the baseline never had; a loss does below."""
    gain = compare_arms(make_ladder(1.3), "base", "new").rungs
    assert [rung.extrapolated for rung in gain] == [False] * 4 + [True]
    harm = compare_arms(make_ladder(0.7), "base", "new").rungs
    assert [rung.extrapolated for rung in harm] == [True] + [False] * 4
    none = compare_arms(make_ladder(1.0), "base", "new").rungs
    assert not any(rung.extrapolated for rung in none)


def test_two_rungs_of_one_seed_bound_nothing_but_the_pool():
    points = make_ladder(1.1, budgets=BUDGETS[:2], n_seeds=1, own_sd=0.001)
    found = compare_arms(points, "base", "new")
    for rung in found.rungs:
        assert (rung.estimate.low_95, rung.estimate.high_95) == (0.0, math.inf)
    assert math.isnan(found.trend.value)
    assert (found.m_at_10x.low_95, found.m_at_10x.high_95) == (0.0, math.inf)
    assert 0 < found.pooled.low_95 < found.pooled.value < found.pooled.high_95 < math.inf


def test_runs_without_a_partner_are_left_out_of_the_pairs():
    points = make_ladder(1.1)
    lonely = points.where(~((points.arm == "base") & (points.rung == 0)))
    found = compare_arms(lonely, "base", "new")
    assert [rung.rung for rung in found.rungs] == [1, 2, 3, 4]
    assert found.pooled.value == pytest.approx(1.1, rel=1e-4)


def test_a_missing_partner_of_one_seed_leaves_the_other_pair():
    points = make_ladder(1.1)
    half = points.where(~((points.arm == "new") & (points.rung == 2) & (points.seed == 1)))
    assert [len(rung.log_m) for rung in compare_arms(half, "base", "new").rungs] == [2, 2, 1, 2, 2]


def test_a_third_arm_changes_nothing():
    points = make_ladder(1.1, own_sd=0.01)
    rows = list(zip(points.arm, points.rung, points.seed, points.x, points.loss, strict=True))
    more = points_from(rows + [("third", r, s, x, 9.0) for _, r, s, x, _ in rows])
    assert compare_arms(more, "base", "new") == compare_arms(points, "base", "new")


@pytest.mark.parametrize("missing", ["base", "new"])
def test_a_missing_arm_is_named(missing):
    points = make_ladder(1.1)
    with pytest.raises(DataError, match=r"no run of 'new' shares rung and seed with one of 'base'"):
        compare_arms(points.where(points.arm != missing), "base", "new")


def test_arms_of_different_seeds_are_no_pairs():
    points = make_ladder(1.1)
    points.seed[points.arm == "new"] += 10
    with pytest.raises(DataError, match="in pairs of equal budget and seed"):
        compare_arms(points, "base", "new")


def test_loss_that_does_not_fall_with_compute_has_no_multiplier():
    """P03: a rising or flat line divides by nothing sensible."""
    with pytest.raises(DataError, match="loss does not fall with compute"):
        compare_arms(make_ladder(1.1, slope=0.02), "base", "new")


def test_the_result_becomes_plain_values():
    plain = compare_arms(make_ladder(1.1), "base", "new").to_json()
    assert plain["law"]["form"] == "joint"
    assert plain["rungs"][0]["estimate"]["value"] == pytest.approx(1.1, rel=1e-4)
    assert "delta method" in plain["method"]
