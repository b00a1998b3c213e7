"""A ladder with branches: one long run of each size; the shorter ones begin at its checkpoints."""

import json
import shutil
from dataclasses import replace

import pytest

from builders import TINY_LADDER, InOwnProcess, tiny_study, write_study
from ladderlm.checkpoint.layout import list_checkpoints, step_folder
from ladderlm.errors import ConfigError
from ladderlm.run.execute import execute
from ladderlm.study.launch import launch, pending_runs, release_trunks
from ladderlm.study.parts import part_of
from ladderlm.study.plan import plan_study
from ladderlm.study.results import COLUMNS, Results, collect_results
from ladderlm.study.spec import read_study
from ladderlm.study.status import early_losses, study_status

BRANCHES = (0.5, 1, 2)


@pytest.fixture(scope="module")
def spec_of(tiny_data, tmp_path_factory):
    """Read a study of two rungs with branches, with some options changed."""

    def make(base=(), ladder=(), **changes):
        values = tiny_study(tiny_data)
        values["base"] |= {"optim.schedule": "wsd", **dict(base)}
        values["ladder"] |= {"flops": list(TINY_LADDER[::2]), "branches": BRANCHES, **dict(ladder)}
        return read_study(write_study(tmp_path_factory.mktemp("spec") / "t.toml", values | changes))

    return make


@pytest.fixture(scope="module")
def made(spec_of, tmp_path_factory):
    """The study's lowest rung, carried out: (plan, pool, jobs in the order of their starts)."""
    pool, executor = tmp_path_factory.mktemp("pool") / "runs", InOwnProcess()
    quick = {"eval.n_evals": 1, "eval.n_samples": 0}
    lowest = {"flops": [TINY_LADDER[0]], "holdout": 0, "branches": BRANCHES[:2]}
    plan = plan_study(spec_of(quick, lowest), pool)
    outcomes = launch(plan, pool, executor)
    assert all(outcome.exit_code == 0 for outcome in outcomes)
    return plan, pool, executor.started


def test_all_lengths_of_a_size_have_its_shape_batch_warm_up_and_rate(spec_of, tmp_path):
    plan = plan_study(spec_of(), tmp_path)
    assert len(plan.runs) == 2 * 2 * len(BRANCHES)
    for arm in ("swiglu", "gelu"):
        for index, budget in enumerate(TINY_LADDER[::2]):
            runs = [r for r in plan.runs if (r.arm, r.rung.index) == (arm, index)]
            assert [r.rung.branch for r in runs] == list(BRANCHES)
            short, *_, trunk = (r.config for r in runs)
            assert short.train.n_steps >= 10  # min_updates, at the shortest
            assert len({(r.config.model, r.config.train.global_batch_tokens) for r in runs}) == 1
            assert {r.config.optim for r in runs} == {short.optim}
            assert short.optim.warmup_steps == -(-short.train.n_steps // 20)  # 5 %, rounded up
            for run in runs:
                assert run.rung.flops == pytest.approx(budget * run.rung.branch, rel=0.1)
            assert trunk.checkpoint.keep_steps == tuple(r.shared_steps for r in runs[:-1])
            assert {r.config.execution.start_from for r in runs[:-1]} == {trunk.out}
            assert [r.trunk for r in runs] == [trunk.run_id, trunk.run_id, None]


def test_branches_have_the_names_of_runs_made_alone_and_cost_their_cooldowns(spec_of, tmp_path):
    with_trunk = plan_study(spec_of(base={"optim.warmup_steps": 1}), tmp_path)
    alone = plan_study(
        spec_of(base={"optim.warmup_steps": 1}, ladder={"branches": [1], "min_updates": 20}),
        tmp_path,
    )
    assert {run.run_id for run in alone.runs} < {run.run_id for run in with_trunk.runs}
    assert alone.flops == alone.flops_alone
    steps = {r.run_id: (r.rung.n_steps - r.shared_steps, r.rung) for r in with_trunk.runs}
    spent = sum(n / rung.n_steps * rung.flops for n, rung in steps.values())
    assert with_trunk.flops == pytest.approx(spent)
    assert with_trunk.flops / with_trunk.flops_alone == pytest.approx((2 + 0.45) / 3.5, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"ladder": {"branches": [0.5, 2]}}, "with 1 among them"),
        ({"ladder": {"branches": [1, 0.5]}}, "that rise"),
        ({"ladder": {"branches": [-1, 1]}}, "positive"),
        ({"ladder": {"tokens": 1e4}}, "ladder.tokens"),
        ({"ladder": {"isoflop_sizes": 4}}, "isoflop_sizes"),
        ({"base": {"optim.schedule": "cosine"}}, "optim.schedule"),
        ({"search": {"flops": 1e9, "options": {"optim.beta1": [0.8, 0.9]}}}, r"\[search\]"),
    ],
)
def test_what_leaves_branches_no_meaning_is_refused(changes, word, spec_of):
    with pytest.raises(ConfigError, match=word):
        spec_of(**changes)


def test_a_warm_up_that_reaches_into_the_shortest_cooldown_is_refused(spec_of, tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.warmup_steps = 9 of a run of"):
        plan_study(spec_of(base={"optim.warmup_steps": 9}), tmp_path)


def test_a_trunk_ends_before_its_branches_start(made):
    plan, _, started = made
    assert sorted(started) == sorted({run.run_id for run in plan.runs})
    for run in plan.runs:
        assert run.trunk is None or started.index(run.trunk) < started.index(run.run_id)


def test_parts_keep_a_trunk_and_its_branches_together(spec_of, tmp_path):
    plan = plan_study(spec_of(), tmp_path)
    for i in (1, 2):
        ids = {run.run_id for run in part_of(plan, i, 2).runs}
        assert all(run.trunk in ids for run in plan.runs if run.run_id in ids and run.trunk)


def test_a_branch_scores_what_it_would_have_scored_alone(made, tmp_path):
    plan, pool, _ = made
    run = next(r for r in plan.runs if r.trunk and r.arm == "gelu")
    execution = replace(run.config.execution, start_from=None)
    alone = execute(replace(run.config, execution=execution, out=str(tmp_path / "alone")))
    weights = [
        list_checkpoints(folder / "checkpoints")[-1].folder / "model.safetensors"
        for folder in (alone, pool / run.run_id)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_table_says_which_trunk_and_what_was_spent(made, tmp_path):
    plan, pool, _ = made
    rows = collect_results(plan, pool)
    for run, row in zip(plan.runs, rows, strict=True):
        assert (row.branch, row.flops) == (run.rung.branch, run.rung.flops)
        assert row.cluster == (run.trunk or run.run_id)
        assert row.flops_spent == pytest.approx(run.flops_to_spend)
        assert row.excluded_because == ""
    whole = {r.run_id: r.device_seconds for r in rows}
    assert all(seconds > 0 for seconds in whole.values())
    rows.write(tmp_path / "results.csv")
    assert Results.read(tmp_path / "results.csv") == rows


def test_a_table_from_before_there_were_branches_is_read(made, tmp_path):
    plan, pool, _ = made
    file = tmp_path / "results.csv"
    collect_results(plan, pool).write(file)
    place = COLUMNS.index("branch")
    lines = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("".join(",".join(x[:place] + x[place + 1 :]) + "\n" for x in lines))
    assert {row.branch for row in Results.read(file)} == {1.0}


def test_status_tells_lengths_apart(made):
    plan, pool, _ = made
    status = study_status(plan, pool)
    assert status.n_finished == len(plan.runs)
    rows = early_losses(status)
    assert [row.branch for row in rows if row.arm == "gelu"] == list(BRANCHES[:2])
    assert all(row.n_runs == 1 for row in rows)


def test_kept_checkpoints_go_when_all_branches_are_finished(made, tmp_path):
    plan, pool, _ = made
    shutil.copytree(pool, tmp_path / "runs")
    pool = tmp_path / "runs"
    trunk = next(run for run in plan.runs if run.trunk is None)
    branch = next(run for run in plan.runs if run.trunk == trunk.run_id)
    kept = step_folder(pool / trunk.run_id / "checkpoints", branch.shared_steps)
    summary = pool / branch.run_id / "summary.json"
    finished = summary.read_text()
    summary.write_text(json.dumps(json.loads(finished) | {"status": "stopped"}))
    assert [run.run_id for run in pending_runs(plan, pool)] == [branch.run_id]
    release_trunks(plan, pool)
    assert kept.is_dir()
    summary.write_text(finished)
    release_trunks(plan, pool)
    assert not kept.is_dir()
    last = list_checkpoints(pool / trunk.run_id / "checkpoints")[-1]
    assert last.step == trunk.rung.n_steps
