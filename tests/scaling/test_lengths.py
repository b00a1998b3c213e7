"""Ladders whose sizes were trained for several lengths, off one trunk each."""

import math

import numpy as np
import pytest

from ladderlm.errors import DataError
from ladderlm.scaling.compare import compare_arms
from ladderlm.scaling.fit import fit
from ladderlm.scaling.joint import LadderLaw, fit_law, holdout_errors
from ladderlm.scaling.points import Points, cells_of

LENGTHS = np.array([0.5, 1.0, 2.0])
WORTH = np.array([0.9, 1.0, 0.85])  # r of each
FLOOR, REACH, EXPONENT = 1.7, 4.0, 0.16
SEED_SD, RUNG_SD = 0.0019, 0.0015  # of ln L, as in `scaling.statistical_power`


def draw(m=1.05, n_rungs=4, n_seeds=2, noise=0.0, rng=None):
    """Draw two arms; all lengths of an arm, rung and seed share their noise but a tenth of it."""
    rng = rng or np.random.default_rng(0)
    arm, rung, branch, seed = np.indices((2, n_rungs, len(LENGTHS), n_seeds))
    x = 1e13 * 10 ** (rung / 2) * LENGTHS[branch]
    reach = x * WORTH[branch] * np.where(arm == 1, m, 1.0) / 1e13
    log_loss = np.log(FLOOR + REACH * reach**-EXPONENT)
    log_loss += noise * rng.normal(0, SEED_SD, (2, n_rungs, 1, n_seeds))
    log_loss += noise * rng.normal(0, RUNG_SD, (2, n_rungs, 1, 1))
    log_loss += noise * rng.normal(0, SEED_SD / 10, log_loss.shape)
    names = np.array(["base", "new"])[arm.ravel()]
    places = (rung.ravel(), seed.ravel(), x.ravel())
    return Points(names, *places, np.exp(log_loss.ravel()), LENGTHS[branch.ravel()])


def as_rungs(points):
    """Take every length of every size for a rung of its own."""
    place = points.rung * len(LENGTHS) + np.searchsorted(LENGTHS, points.branch)
    return Points(points.arm, place, points.seed, points.x, points.loss, points.branch)


def test_a_planted_law_comes_back_with_what_each_length_is_worth():
    points = draw(m=1.2)
    law = fit_law(points, "base")
    assert law.branches == (1.0, 0.5, 2.0)
    assert [math.exp(law.log_r(b)) for b in LENGTHS] == pytest.approx(WORTH, rel=1e-4)
    assert law.predict("new", points.x[-2:], 2.0) == pytest.approx(points.loss[-2:], rel=1e-6)
    found = compare_arms(points, "base", "new")
    assert found.pooled.value == pytest.approx(1.2, rel=1e-3)
    assert len(found.rungs) == 4
    assert all(len(rung.log_m) == 2 for rung in found.rungs)  # one of each seed
    step = 1e-5  # the slope is that of the law, by differences
    up, down = (law.predict("base", 1e14 * np.exp([s]), 2.0)[0] for s in (step, -step))
    assert law.slope(np.array([1e14]), 2.0)[0] == pytest.approx(math.log(up / down) / 2 / step)
    assert LadderLaw.from_json(law.to_json()) == law


def test_all_lengths_of_a_size_weigh_as_much_as_one():
    points = draw()
    alone = points.where(points.branch == 1)
    cells, one = cells_of(points), cells_of(alone)
    assert cells.weight.sum() == pytest.approx(one.weight.sum())
    assert (cells.n_groups, cells.within[1]) == (one.n_groups, one.within[1]) == (8, 8)
    assert fit_law(points, "base").freedom == fit_law(alone, "base").freedom


def test_lengths_that_agree_to_the_bit_say_what_one_says():
    """Three copies of a ladder, called lengths: nothing is known better for it."""
    noisy = draw(noise=1.0)
    one = noisy.where(noisy.branch == 1)
    parts = [np.tile(array, 3) for array in (one.arm, one.rung, one.seed, one.x, one.loss)]
    copies = Points(*parts, np.repeat(LENGTHS, len(one)))
    wanted, found = (compare_arms(points, "base", "new").pooled for points in (one, copies))
    assert vars(found) == pytest.approx(vars(wanted), rel=1e-4)


def test_intervals_hold_their_truth_as_often_as_they_say_and_would_not_if_lengths_were_rungs():
    rng, n = np.random.default_rng(3), 60
    held = {"branches": 0, "rungs": 0}
    for _ in range(n):
        points = draw(noise=1.0, rng=rng)
        for name, arranged in (("branches", points), ("rungs", as_rungs(points))):
            pooled = compare_arms(arranged, "base", "new").pooled
            held[name] += pooled.low_95 <= 1.05 <= pooled.high_95
    assert held["branches"] >= 54  # 57 are expected; 196 of 200 in a longer run
    assert held["rungs"] <= 50  # 148 of 200


def test_the_hold_out_has_all_lengths_of_the_top_rung():
    rows = holdout_errors(draw(noise=1.0), 1, "base")
    assert {(row["arm"], row["rung"], row["branch"]) for row in rows} == {
        (arm, 3, length) for arm in ("base", "new") for length in LENGTHS
    }
    assert all(row["passed"] for row in rows)
    points = draw()
    gap = points.where((points.rung == 3) | (points.branch != 2))
    with pytest.raises(DataError, match="branch 2 has no run on the lower rungs"):
        holdout_errors(gap, 1, "base")


def test_a_seed_that_lacks_a_length_is_compared_by_the_others():
    points = draw(m=1.2)
    lost = (points.rung == 1) & (points.seed == 0) & (points.branch == 2)
    found = compare_arms(points.where(~lost), "base", "new")
    assert found.pooled.value == pytest.approx(1.2, rel=1e-3)
    assert found.rungs[1].log_m == pytest.approx([math.log(1.2)] * 2, rel=1e-2)


def test_the_fit_of_a_table_knows_its_column_of_lengths():
    points = draw(m=1.2)
    columns = {"arm": points.arm.tolist(), "flops": points.x.tolist()}
    columns |= {"loss": points.loss.tolist(), "branch": points.branch.tolist()}
    columns |= {"rung": points.rung.tolist(), "seed": points.seed.tolist()}
    columns["cluster"] = [
        f"{a}-{r}-{s}" for a, r, s in zip(points.arm, points.rung, points.seed, strict=True)
    ]
    found = fit(columns, "joint", draws=100)
    assert found.parameters["ln_r[0.5]"] == pytest.approx(math.log(0.9), abs=1e-3)
    assert found.parameters["ln_r[2]"] == pytest.approx(math.log(0.85), abs=1e-3)
    pooled = found.details["comparisons"]["new"]["pooled"]
    assert pooled["value"] == pytest.approx(1.2, rel=1e-3)
    assert not any("clusters for" in warning for warning in found.warnings)
    columns["cluster"] = columns["arm"]
    poor = fit(columns, "joint", draws=100)
    assert any("2 clusters for 5 parameters" in warning for warning in poor.warnings)
