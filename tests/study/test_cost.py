"""What a study will take: the model is exact where costs are simple, the probe is a real run."""

import json
import time
from dataclasses import replace

import pytest

from builders import InOwnProcess, tiny_study, write_study
from ladderlm.bench.probe import measure_all
from ladderlm.errors import ExecutorError
from ladderlm.run.resolve import open_splits
from ladderlm.study.cost import (
    ProbedShape,
    estimate_memory,
    predict,
    predict_all,
    probe,
    probed_runs,
)
from ladderlm.study.launch import launch
from ladderlm.study.plan import plan_study
from ladderlm.study.spec import read_study


@pytest.fixture
def plan(tiny_data, tmp_path):
    values = tiny_study(tiny_data)
    return plan_study(read_study(write_study(tmp_path / "s.toml", values)), tmp_path / "pool")


def measured(run, flops_per_second, **fields):
    """What a machine of this speed, and of free beginnings and ends, would show."""
    values = {"checkpoint_seconds": 0.0, "eval_seconds_per_token": 0.0, "end_seconds": 0.0}
    values |= {"start_seconds": 0.0, "memory_bytes": 100.0, **fields}
    step = run.rung.flops / run.rung.n_steps / flops_per_second
    return ProbedShape(run, step_seconds=step, **values)


def test_the_lowest_the_middle_and_the_top_rung_are_tried_and_every_arm_once(plan):
    found = [(run.arm, run.rung.index) for run in probed_runs(plan)]
    assert found == [("swiglu", 0), ("swiglu", 1), ("swiglu", 2), ("gelu", 1)]


def test_a_machine_of_constant_speed_is_predicted_exactly(plan):
    found = [measured(run, 1e9) for run in probed_runs(plan)]
    for run in plan.runs:
        cost = predict(run, found, 1000, 1000)
        assert cost.seconds == pytest.approx(run.rung.flops / 1e9)
        assert cost.seconds == cost.device_seconds
        assert cost.memory_bytes == 100.0


def test_an_arm_has_its_own_speed_relative_to_the_baseline(plan):
    """Muon costs 5 to 11 % more a step: one short run of the arm shows it at every rung."""
    speed = {"swiglu": [1e9, 2e9, 4e9], "gelu": [5e8, 1e9, 2e9]}
    found = [measured(run, speed[run.arm][run.rung.index]) for run in probed_runs(plan)]
    for run in plan.runs:
        exact = run.rung.flops / speed[run.arm][run.rung.index]
        # gelu's N is not quite the baseline's, so its speed is read between two shapes
        rel = 1e-9 if run.arm == "swiglu" else 0.1
        assert predict(run, found, 1, 1).device_seconds == pytest.approx(exact, rel=rel)


def test_every_part_of_a_run_is_counted(plan, monkeypatch):
    run = plan.runs[0]
    parts = {"start_seconds": 3.0, "checkpoint_seconds": 0.5, "end_seconds": 2.0}
    found = [measured(run, 1e9, eval_seconds_per_token=1e-3, **parts)]
    n_scored, n_saved, head = 4, 1, 300  # three validations and the first; no checkpoint before 100
    wanted = run.rung.flops / 1e9 + 3 + n_saved * 0.5 + (n_scored * head + 900) * 1e-3 + 2
    assert predict(run, found, 5000, 900).seconds == pytest.approx(wanted)
    opened = []
    look = lambda config: opened.append(config) or open_splits(config)  # noqa: E731
    monkeypatch.setattr("ladderlm.study.cost.open_splits", look)
    costs = predict_all(plan, found)
    assert len(opened) == 1
    assert set(costs) == {run.run_id for run in plan.runs}


def test_short_runs_show_what_the_parts_take(plan, tmp_path):
    """A real run of the lowest rung, in this process: everything is positive and plausible."""
    configs = [run.config for run in plan.runs[:2]]
    began = time.monotonic()
    rows = measure_all(configs, tmp_path, 60.0, began - 2.0)
    took = time.monotonic() - began
    assert len(rows) == 2
    for row in rows:
        assert 0 < row["step_seconds"] < took
        assert 0 < row["eval_seconds_per_token"] < took
        assert 0 <= row["checkpoint_seconds"] < took
        assert 2.0 < row["start_seconds"] < 2.0 + took  # with the two before it began
        assert row["memory_bytes"] > 10e6
    assert len(measure_all(configs, tmp_path / "again", 0.0, time.monotonic())) == 1


@pytest.mark.parametrize(
    ("dim", "n_layers", "n_tokens", "measured_mb"),
    [(64, 1, 2048, 393), (64, 2, 2048, 415), (64, 2, 8192, 500), (128, 4, 2048, 535)],
)
def test_the_memory_of_short_runs_is_estimated(plan, dim, n_layers, n_tokens, measured_mb):
    """ProbedShape on 2 cores of an AMD EPYC (Zen 2); vocabulary 320, rows of 128 tokens."""
    config = plan.runs[0].config
    config = replace(
        config,
        model=replace(config.model, dim=dim, n_layers=n_layers, n_heads=2, max_seq_len=128),
        data=replace(config.data, seq_len=128),
        train=replace(config.train, global_batch_tokens=n_tokens),
        eval=replace(config.eval, context=128, stride=128),
        execution=replace(config.execution, micro_batch_seqs=n_tokens // 128),
    )
    found = estimate_memory(replace(plan.runs[0], config=config))
    assert found / 1e6 == pytest.approx(measured_mb, rel=0.06)


def test_runs_are_handed_to_the_executor_with_threads_and_memory(plan, tmp_path):
    class Noted(InOwnProcess):
        def submit(self, job):
            jobs.append(job)
            self.codes[job.name] = 0
            return job.name

    jobs = []
    launch(plan, tmp_path / "pool", Noted())
    assert len(jobs) == len(plan.runs)
    for job in jobs:
        assert job.resources.n_threads == 1
        assert 3e8 < job.resources.memory_bytes < 6e8
        assert job.env["OMP_NUM_THREADS"] == "1"


def test_a_probe_leaves_out_what_counts_in_steps_of_the_whole_run(plan, tmp_path):
    """A branch warms up for more steps than a probe has, from a trunk that is not there yet."""
    config = plan.runs[0].config
    config = replace(
        config,
        optim=replace(config.optim, schedule="wsd", warmup_steps=1000),
        checkpoint=replace(config.checkpoint, keep_steps=(900,)),
        execution=replace(config.execution, start_from=str(tmp_path / "trunk")),
    )
    (found,) = measure_all([config], tmp_path, 1.0, time.monotonic())
    assert found["step_seconds"] > 0


def test_a_probe_that_fails_says_what_the_run_said(plan, tmp_path):
    broken = replace(plan.runs[0].config, data=replace(plan.runs[0].config.data, path="gone"))
    runs = (replace(plan.runs[0], config=broken),)
    with pytest.raises(ExecutorError, match="gone") as caught:
        probe(replace(plan, runs=runs), 1)
    assert "--no-probe" in caught.value.fix


def test_the_plan_shows_times_memory_and_what_the_arms_change(
    tiny_data, tmp_path, monkeypatch, capsys
):
    from ladderlm.cli.main import main

    file = write_study(tmp_path / "s.toml", tiny_study(tiny_data))
    monkeypatch.setattr(
        "ladderlm.cli.study.probe",
        lambda plan, n: [measured(run, 1e8, memory_bytes=2e8) for run in probed_runs(plan)],
    )
    words = ["study", "plan", str(file), "--out", str(tmp_path / "out"), "--threads", "2"]
    assert main([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    runs = shown["runs"]
    for row in runs:
        assert row["timing"]["seconds"] == pytest.approx(row["flops"] / 1e8)
        assert row["memory_bytes"] == 2e8
    total = sum(row["flops"] for row in runs) / 1e8
    assert shown["timing"]["seconds"] == pytest.approx(total)
    assert sum(shown["timing"]["device_hours"].values()) == pytest.approx(total / 3600)
    assert total / 2 <= shown["timing"]["seconds_to_go"] < total
    assert "model.mlp: 'swiglu' -> 'gelu'" in shown["differences"]["gelu"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "gelu changes model.mlp: 'swiglu' -> 'gelu'" in said
    assert "device-hours" in said
    assert "200 MB" in said
    assert not (tmp_path / "out").exists()
