"""Compute multipliers: by hand on few points, and by simulation of studies with known truth."""

import math

import numpy as np
import pytest

from ladderlm.errors import DataError
from ladderlm.scaling.compare import compare_arms
from ladderlm.study.verdict import decide
from reference.ladders import BUDGETS, SLOPE, make_ladder, points_from

N_STUDIES = 300
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
    assert found.law.slope == pytest.approx(-0.1)
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
    assert there.pooled.value * back.pooled.value == pytest.approx(1.0)
    assert there.pooled.low_95 * back.pooled.high_95 == pytest.approx(1.0)
    assert there.trend.value == pytest.approx(-back.trend.value)


@pytest.mark.parametrize("trend", [-0.05, 0.0, 0.03])
@pytest.mark.parametrize("m", [0.9, 1.0, 1.3])
def test_planted_multiplier_and_trend_come_back_without_noise(m, trend):
    """A trend bends the variant's own slope, so the common one is the mean of both."""
    found = compare_arms(make_ladder(m, trend=trend), "base", "new")
    ratio = SLOPE / found.law.slope  # ln m is a loss difference over the fitted slope
    assert found.law.slope == pytest.approx(SLOPE * (1 + trend / 2))
    assert math.log(found.pooled.value) == pytest.approx(ratio * math.log(m), abs=1e-9)
    assert found.trend.value == pytest.approx(ratio * trend, abs=1e-9)
    at = math.log(BUDGETS[-1] * 10 / BUDGETS[2])
    assert math.log(found.m_at_10x.value) == pytest.approx(
        ratio * (math.log(m) + trend * at), abs=1e-9
    )


@pytest.fixture(scope="module", params=[1.0, 1.05, 1.2])
def simulated(request):
    """300 studies of one planted multiplier, five rungs of two seeds, with noise of all kinds."""
    rng = np.random.default_rng(int(100 * request.param))
    planted = request.param
    return planted, [
        compare_arms(make_ladder(planted, **NOISE, rng=rng), "base", "new")
        for _ in range(N_STUDIES)
    ]


def share(inside):
    return float(np.mean(list(inside)))


def test_intervals_of_the_pooled_multiplier_cover_the_planted_one(simulated):
    """The binomial sd of 300 studies at 95 % is 1.3 %, at 90 % it is 1.7 %."""
    m, studies = simulated
    assert 0.90 <= share(s.pooled.low_95 <= m <= s.pooled.high_95 for s in studies) <= 0.99
    assert 0.84 <= share(s.pooled.low_90 <= m <= s.pooled.high_90 for s in studies) <= 0.96
    middle = np.median([s.pooled.value for s in studies])
    assert middle == pytest.approx(m, rel=0.01)  # no bias to speak of


def test_intervals_of_trend_and_forecast_cover_the_planted_ones(simulated):
    m, studies = simulated
    assert 0.90 <= share(s.trend.low_95 <= 0 <= s.trend.high_95 for s in studies) <= 0.99
    assert 0.90 <= share(s.m_at_10x.low_95 <= m <= s.m_at_10x.high_95 for s in studies) <= 0.99


def test_intervals_at_single_rungs_cover_the_planted_multiplier(simulated):
    m, studies = simulated
    rungs = [rung.estimate for s in studies for rung in s.rungs]
    assert 0.90 <= share(r.low_95 <= m <= r.high_95 for r in rungs) <= 0.99


def test_nothing_is_recommended_where_nothing_was_planted(simulated):
    """At most 5 % of null studies recommend; at m = 1.2 most do."""
    m, studies = simulated
    options = {"tuned": True, "holdout_passed": True, "demonstration": False}
    words = [decide(s, **options).word for s in studies]
    gains = share(word.startswith("RECOMMEND") for word in words)
    if m == 1.0:
        assert gains <= 0.05
        assert share(word == "NOT RECOMMENDED" for word in words) <= 0.05
    if m == 1.2:
        assert gains >= 0.9


def test_seed_noise_is_measured_and_pairing_takes_it_out_of_the_multiplier():
    rng = np.random.default_rng(9)
    shared = [compare_arms(make_ladder(shared_sd=0.01, rng=rng), "base", "new") for _ in range(50)]
    own = [compare_arms(make_ladder(own_sd=0.01, rng=rng), "base", "new") for _ in range(50)]
    for studies in (shared, own):
        variance = np.mean([s.seed_sd**2 for s in studies])
        assert math.sqrt(variance) == pytest.approx(0.01, rel=0.15)  # 10 degrees of freedom each
    for study in shared:
        pairs = [value for rung in study.rungs for value in rung.log_m]
        assert pairs == pytest.approx([pairs[0]] * len(pairs), rel=1e-9)


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
    assert found.pooled.value == pytest.approx(1.1)


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
    assert plain["law"]["form"] == "log-linear"
    assert plain["rungs"][0]["estimate"]["value"] == pytest.approx(1.1)
    assert "delta method" in plain["method"]
