"""Learning rates: planted optima are found, edges and broken laws are not hidden, stages resume."""

import json
import math

import numpy as np
import pytest

from builders import tiny_study, write_study
from ladderlm.files import publish_json, read_json
from ladderlm.study.analysis import analyse
from ladderlm.study.asides import seed_noise
from ladderlm.study.launch import launch, pending_runs
from ladderlm.study.parts import part_of
from ladderlm.study.plan import plan_study
from ladderlm.study.results import collect_results, points_of
from ladderlm.study.spec import read_study
from ladderlm.study.status import study_status
from ladderlm.study.tuning import Tuning, fit_bracket, fit_rate_law, grid
from reference.planted import Planted, carry_out

CURVATURE = 0.02
FLOPS = [2.27e8, 4.53e8, 6.73e8, 1.49e9]


def loss_at(rate, best, scale=2.0):
    return scale * math.exp(CURVATURE * math.log(rate / best) ** 2)


def test_a_grid_doubles_around_its_centre():
    assert grid(0.01, 5) == [0.0025, 0.005, 0.01, 0.02, 0.04]


@pytest.mark.parametrize("best", [0.0051, 0.0075, 0.01, 0.013, 0.019])
def test_the_vertex_of_a_parabola_in_the_logarithm_is_found_exactly(best):
    rates = grid(0.01, 5)
    bracket = fit_bracket(0, 1e9, rates, [loss_at(rate, best) for rate in rates])
    assert bracket.best_rate == pytest.approx(best, rel=1e-9)
    assert bracket.curvature == pytest.approx(CURVATURE, rel=1e-9)
    assert not bracket.edge
    for rate in rates:
        assert bracket.regret(rate) == pytest.approx(math.log(loss_at(rate, best) / 2.0))


@pytest.mark.parametrize("best", [0.001, 0.1])
def test_a_best_point_at_the_end_of_the_grid_is_an_edge(best):
    rates = grid(0.01, 5)
    bracket = fit_bracket(0, 1e9, rates, [loss_at(rate, best) for rate in rates])
    assert bracket.edge
    assert bracket.best_rate in (rates[0], rates[-1])
    assert bracket.curvature is None
    assert bracket.regret(0.01) is None


def test_a_rate_that_diverges_bounds_the_grid_and_leaves_no_parabola():
    """S02: a diverged run is a loss without end, not a missing one."""
    bracket = fit_bracket(0, 1e9, grid(1.0, 5), [2.2, 2.1, 2.0, math.inf, math.inf])
    assert (bracket.best_rate, bracket.curvature, bracket.edge) == (1.0, None, False)


def test_the_power_law_of_planted_rates_is_found_with_its_standard_error():
    flops = [1e12, 3e12, 1e13]
    planted = [0.01 * (c / 1e12) ** -0.3 for c in flops]
    law = fit_rate_law([fit_bracket(0, c, [r], [1.0]) for c, r in zip(flops, planted, strict=True)])
    assert law.exponent == pytest.approx(-0.3)
    assert law.rate(1e14) == float(f"{0.01 * 100**-0.3:.3g}")
    x = np.log(flops) - np.mean(np.log(flops))
    at = math.log(1e14) - np.mean(np.log(flops))
    assert law.rate_sd(1e14) == pytest.approx(law.sd * math.sqrt(1 / 3 + at**2 / np.sum(x**2)))
    assert law.rate_sd(1e14) > law.rate_sd(3e12)
    alone = fit_rate_law([fit_bracket(0, 1e12, [0.01], [1.0])])
    assert (alone.exponent, alone.rate(1e15)) == (0.0, 0.01)


def planted(best):
    """Runs whose best rate is best(flops, config), with a small spread of seeds."""

    def loss(flops, config):
        rate = config.optim.learning_rate
        found = loss_at(rate, best(flops, config), 3 * flops**-0.02)
        return found * (1 + 1e-3 * math.sin(config.train.seed * 7919 + rate))

    return Planted(loss)


TUNE = {"optim.learning_rate": "bracket"}


@pytest.fixture
def spec(tiny_data, tmp_path):
    """Two tuned arms on four rungs."""
    values = tiny_study(tiny_data)
    values["ladder"] |= {"flops": FLOPS, "seeds": [1, 2], "noise_seeds": 2}
    values["arm"] = [
        {"name": "swiglu", "tune": TUNE},
        {"name": "gelu", "set": {"model.mlp": "gelu"}, "tune": TUNE},
    ]
    return read_study(write_study(tmp_path / "s.toml", values))


def shrinking(flops, config):
    """A best rate that falls with compute, twice as high for GELU."""
    return 0.03 * (flops / 2.27e8) ** -0.25 * (2 if config.model.mlp == "gelu" else 1)


def test_the_planted_rates_are_found_and_used_on_every_rung(spec, tmp_path):
    executor = planted(shrinking)
    plans = carry_out(spec, tmp_path / "pool", executor)
    assert len(executor.started) == len(set(executor.started))  # S01: nothing twice
    plan = plans[-1]
    assert len(plans) == 3  # brackets and noise, check, ladder
    assert all(tuning.done and tuning.problem is None for tuning in plan.tunings)
    for run in plan.ladder:
        rate = run.config.optim.learning_rate
        assert rate == pytest.approx(shrinking(run.rung.flops, run.config), rel=0.15)
    for tuning in plan.tunings:
        assert tuning.law.exponent == pytest.approx(-0.25, abs=0.1)
        assert 0 < tuning.regret(FLOPS[1]) < tuning.regret(FLOPS[-1]) < 0.1
    assert not pending_runs(plan, tmp_path / "pool")
    assert study_status(plan, tmp_path / "pool").over


def test_before_rates_are_chosen_the_ladder_is_shown_but_never_started(spec, tmp_path):
    plan = plan_study(spec, tmp_path / "pool")
    assert len(plan.ladder) == 16
    assert all(run.provisional for run in plan.ladder)
    roles = [run.role for run in pending_runs(plan, tmp_path / "pool")]
    assert roles.count("bracket") == 2 * 2 * 5
    assert roles.count("noise") == 2
    assert "ladder" not in roles
    assert not any(run.provisional for run in plan.settled)
    parts = [part_of(plan, i, 3) for i in (1, 2, 3)]
    assert sorted(r.run_id for part in parts for r in part.settled) == sorted(
        run.run_id for run in plan.settled
    )
    status = study_status(plan, tmp_path / "pool")
    assert not status.over
    assert {row.status for row in status.runs} == {"not chosen", "not started"}


def test_runs_of_the_search_and_for_the_noise_are_in_the_table_and_not_compared(spec, tmp_path):
    plan = carry_out(spec, tmp_path / "pool", planted(shrinking))[-1]
    rows = collect_results(plan, tmp_path / "pool")
    assert len([row for row in rows if row["role"] == "bracket"]) == 2 * (5 + 5 + 3)
    assert all(row["excluded_because"] for row in rows if row["role"] != "ladder")
    assert len(points_of(rows)) == 16
    noise = seed_noise(rows, "swiglu")
    ours = [row for row in rows if row["arm"] == "swiglu" and row["rung"] == 0]
    losses = [math.log(r["loss"]) for r in ours if r["role"] in ("ladder", "noise")]
    assert noise["n_seeds"] == 4
    assert noise["sd"] == pytest.approx(np.std(losses, ddof=1))
    low, high = noise["interval_95"]
    assert low < noise["sd"] < high


def test_a_search_that_was_cut_short_goes_on(spec, tmp_path):
    """S01: a stage is planned from finished runs alone."""
    pool = tmp_path / "pool"
    plan = plan_study(spec, pool)
    some = [run for i, run in enumerate(plan.runs) if i % 2]
    launch(type(plan)(spec, tuple(some), ()), pool, planted(shrinking))
    resumed, whole = planted(shrinking), planted(shrinking)
    plans = carry_out(spec, pool, resumed)
    again = carry_out(spec, tmp_path / "other", whole)
    assert [r.run_id for r in plans[-1].runs] == [r.run_id for r in again[-1].runs]
    assert set(resumed.started) < set(whole.started)


def test_a_grid_grows_until_its_best_point_is_inside(spec, tmp_path):
    executor = planted(lambda flops, config: 0.4)  # the grid begins with 0.0075 to 0.12
    plan = carry_out(spec, tmp_path / "pool", executor)[-1]
    for tuning in plan.tunings:
        assert tuning.problem is None
        assert tuning.brackets[0].best_rate == pytest.approx(0.4, rel=0.1)
        assert len(tuning.brackets[0].rates) == 8


def test_an_optimum_beyond_the_longest_grid_gives_no_verdict(spec, tmp_path):
    """Rule 0: the best rate of one arm was not found."""
    executor = planted(lambda flops, config: 1e3 if config.model.mlp == "gelu" else 0.03)
    plan = carry_out(spec, tmp_path / "pool", executor)[-1]
    good, bad = plan.tunings
    assert good.problem is None
    assert "lies on the edge of its grid" in bad.problem
    fits = analyse(spec, collect_results(plan, tmp_path / "pool"), plan.tunings)
    verdict = fits["variants"][0]["verdict"]
    assert verdict["word"] == "INCONCLUSIVE"
    assert verdict["reason"].startswith(f"arm gelu: {bad.problem}; ")


def test_a_power_law_that_does_not_hold_fails_its_check(spec, tmp_path):
    """Rates that fall between the first two rungs and rise a hundredfold at the third."""
    best = lambda flops, config: 3.0 if flops > 6e8 else 0.03  # noqa: E731
    plan = carry_out(spec, tmp_path / "pool", planted(best))[-1]
    assert all("failed its check" in tuning.problem for tuning in plan.tunings)
    used = [run.config.optim.learning_rate for run in plan.ladder if run.rung.index == 3]
    assert min(used) > 0.06  # what the check has shown is not thrown away


def test_what_was_found_is_plain_json_with_the_regret_of_every_rung(spec, tmp_path):
    plan = carry_out(spec, tmp_path / "pool", planted(shrinking))[-1]
    found = json.loads(json.dumps(plan.tunings[0].to_json(FLOPS)))
    assert [rung["flops"] for rung in found["rungs"]] == FLOPS
    used = [run.config.optim.learning_rate for run in plan.ladder if run.arm == "swiglu"]
    assert [rung["rate"] for rung in found["rungs"]] == used[::2]
    assert all(rung["regret"] > 0 for rung in found["rungs"])


def test_what_was_found_comes_back_from_a_file(tmp_path):
    """A report reads it there; a run that diverged has no finite loss."""
    brackets = (fit_bracket(0, 1e9, [0.01, 0.02, 0.04], [2.1, 2.0, math.inf]),)
    tuning = Tuning("gelu", brackets, fit_rate_law(brackets), False, "not done")
    publish_json(tmp_path / "tuning.json", tuning.to_json(FLOPS))
    assert Tuning.from_json(read_json(tmp_path / "tuning.json")) == tuning
