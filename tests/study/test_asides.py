"""Sizes at equal compute and ladders of fixed tokens: planned evenly, planted optima found."""

import json
import math
import shutil

import pytest

from builders import tiny_study, write_study
from ladderlm.errors import ConfigError
from ladderlm.files import publish_json
from ladderlm.study.asides import best_sizes, incomparable_times, mixed_origins
from ladderlm.study.plan import plan_study
from ladderlm.study.results import collect_results, points_of
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
    rows = collect_results(plan, tmp_path / "pool")
    for row in rows:
        off = math.log(row["tokens"] / row["params"] / 5)
        row["bits_per_byte"] = 3 * row["flops"] ** -0.02 * math.exp(0.01 * off**2)
        row["excluded_because"] = "" if row["role"] == "ladder" else "an isoflop run"
    assert len(points_of(rows)) == 6
    found = best_sizes(rows, "swiglu", FLOPS)
    good = [bowl for bowl in found["bowls"] if not bowl["problem"]]
    assert len(good) >= 2
    for bowl in good:
        assert bowl["tokens_per_param_opt"] == pytest.approx(5, rel=0.15)
    assert best_sizes([row for row in rows if row["role"] == "ladder"], "swiglu", FLOPS) is None


def test_sizes_without_an_optimum_say_so(plan_of, tmp_path):
    plan = plan_of(isoflop_sizes=5)
    rows = collect_results(plan, tmp_path / "pool")
    for row in rows:
        row["bits_per_byte"] = row["params"] ** -0.1
    assert "problem" in best_sizes(rows, "swiglu", FLOPS)


@pytest.mark.parametrize("wrong", [{"isoflop_sizes": 3}, {"isoflop_sizes": 10}, {"tokens": -1}])
def test_numbers_that_mean_nothing_are_refused(plan_of, wrong):
    with pytest.raises(ConfigError):
        plan_of(**wrong)


def test_runs_that_were_not_all_made_alike_are_warned_of(done, tmp_path):
    """S07: another PyTorch, another commit, another machine between two runs of one line."""
    pool = tmp_path / "pool"
    shutil.copytree(done.pool, pool, ignore=shutil.ignore_patterns("checkpoints"))
    assert mixed_origins(done.plan, pool) == []
    good = [run for run in done.plan.runs if run.arm != "broken"]
    changes = ({"versions": {"torch": "2.10.0"}}, {"commit": "abc"}, {"hardware": "another"})
    for run, change in zip(good, changes, strict=False):
        file = pool / run.run_id / "environment.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    said = mixed_origins(done.plan, pool)
    assert len(said) == 3
    assert any("2.10.0 (1 runs)" in line and "(5 runs)" in line for line in said)


def timed(pool, name, begin, seconds, device="cpu", hardware="a CPU", role="ladder", own=1.0):
    """A finished run that began so many seconds after noon; None: it does not say when."""
    environment = {"device": device}
    if begin is not None:
        environment["timing"] = {"started_at": f"2026-01-01T12:00:{begin:09.6f}+00:00"}
    publish_json(pool / name / "environment.json", environment)
    row = {"run_id": name, "role": role, "status": "finished", "hardware": hardware}
    return (
        row
        | {"seconds": seconds, "rung": 0, "excluded_because": ""}
        | {
            "flops": 1e9,
            "flops_spent": own * 1e9,
        }
    )


def test_times_of_runs_that_shared_a_machine_or_had_another_do_not_compare(tmp_path):
    rows = [
        timed(tmp_path, "alone", 0, 10),
        timed(tmp_path, "one", 10, 10),
        timed(tmp_path, "beside", 14, 5),  # all of its time beside "one", which had half of its own
        timed(tmp_path, "long", 20, 10),
        timed(tmp_path, "noise", 22, 6, role="noise"),
        timed(tmp_path, "older", None, 10),
        timed(tmp_path, "other", 40, 10, hardware="another"),
        timed(tmp_path, "branch", 50, 8, own=0.5),  # half of its seconds were its trunk's
        timed(tmp_path, "next", 54, 4),
    ]
    found = incomparable_times(rows, tmp_path)
    assert sorted(found) == ["beside", "long", "other"]
    assert found["other"] == "ran on another, most runs on a CPU"
    assert found["long"] == "shared the machine with other runs of the study"
    on_gpus = [timed(tmp_path, name, 0, 10, device="cuda") for name in ("gpu-1", "gpu-2")]
    assert incomparable_times(on_gpus, tmp_path) == {}
    assert incomparable_times([], tmp_path) == {}
