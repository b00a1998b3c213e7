"""Sizes at equal compute and ladders of fixed tokens: planned evenly, planted optima found."""

import json
import math
from dataclasses import replace

import pytest

from builders import tiny_study, write_study
from ladderlm.errors import ConfigError
from ladderlm.files import to_json
from ladderlm.study.baseline import BestSizes, fit_best_sizes
from ladderlm.study.plan import plan_study
from ladderlm.study.records import NoAnswer
from ladderlm.study.results import Results, collect_results
from ladderlm.study.spec import read_study

FLOPS = [2e10, 6e10, 2e11]  # where the grid of shapes is dense


@pytest.fixture
def plan_of(tmp_path, tiny_data):
    def give(**ladder):
        values = tiny_study(tiny_data)
        values["ladder"] |= {"flops": FLOPS, "tokens_per_param": 8, **ladder}
        spec = read_study(write_study(tmp_path / "s.toml", values))
        return plan_study(spec, tmp_path / "pool")

    return give


def test_a_ladder_of_fixed_tokens_grows_in_size_alone(plan_of):
    plan = plan_of(tokens=3e5, min_updates=100)
    for run in plan.ladder:
        assert 1 / 1.21 <= run.rung.n_tokens / 3e5 <= 1.21
        assert run.rung.flops == pytest.approx(run.rung.budget, rel=0.01)
    sizes = [run.rung.n_matmul for run in plan.ladder if run.arm == "swiglu"]
    assert sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(ConfigError, match="tokens, not 1e") as caught:
        plan_of(tokens=1e12)
    assert "smallest budget that works" in caught.value.fix


def test_sizes_at_equal_compute_lie_around_that_of_the_ladder(plan_of):
    plan = plan_of(isoflop_sizes=5, isoflop_rungs=2)
    sized = [run for run in plan.runs if run.role == "isoflop"]
    assert {run.arm for run in sized} == {"swiglu"}
    assert {run.rung.index for run in sized} == {0, 1}
    assert len({run.run_id for run in plan.runs}) == len(plan.runs)
    for index in (0, 1):
        own = next(run for run in plan.ladder if run.rung.index == index)
        rung = [run.rung for run in sized if run.rung.index == index]
        for other in rung:
            assert other.flops == pytest.approx(FLOPS[index], rel=0.01)
        sizes = sorted([own.rung.n_matmul, *(other.n_matmul for other in rung)])
        assert len(sizes) >= 4
        assert sizes[0] < own.rung.n_matmul / 1.5
        assert sizes[-1] > own.rung.n_matmul * 1.5
    assert not [run for run in plan_of().runs if run.role == "isoflop"]


def test_the_best_tokens_per_parameter_are_found_and_sizes_are_not_compared(plan_of, tmp_path):
    """Planted: at every budget the best N has 5 tokens a parameter."""
    plan = plan_of(isoflop_sizes=5)
    rows = []
    for row in collect_results(plan, tmp_path / "pool"):
        off = math.log(row.tokens / row.params / 5)
        bits = 3 * row.flops**-0.02 * math.exp(0.01 * off**2)
        reason = "" if row.role == "ladder" else "an isoflop run"
        rows.append(replace(row, bits_per_byte=bits, excluded_because=reason))
    results = Results(tuple(rows))
    assert len(results.points()) == 6
    found = fit_best_sizes(results, "swiglu", FLOPS)
    good = [bowl for bowl in found.bowls if not bowl.problem]
    assert len(good) >= 2
    for bowl in good:
        assert bowl.tokens_per_param_opt == pytest.approx(5, rel=0.15)
    assert fit_best_sizes(results.ladder, "swiglu", FLOPS) is None
    stored = json.loads(to_json(found.to_json()))
    assert to_json(BestSizes.from_json(stored).to_json()) == to_json(stored)


def test_sizes_without_an_optimum_say_so(plan_of, tmp_path):
    plan = plan_of(isoflop_sizes=5)
    rows = collect_results(plan, tmp_path / "pool")
    flat = Results(tuple(replace(row, bits_per_byte=row.params**-0.1) for row in rows))
    assert isinstance(fit_best_sizes(flat, "swiglu", FLOPS), NoAnswer)


@pytest.mark.parametrize("wrong", [{"isoflop_sizes": 3}, {"isoflop_sizes": 10}, {"tokens": -1}])
def test_numbers_that_mean_nothing_are_refused(plan_of, wrong):
    with pytest.raises(ConfigError):
        plan_of(**wrong)
