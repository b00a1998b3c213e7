"""Where a study stands: from the folders alone, truthful about what has gone silent."""

import json
import os
import shutil
import time

import pytest

from ladderlm.study.status import early_losses, study_status


@pytest.fixture
def pool(done, tmp_path):
    """A copy of the finished runs."""
    ignored = shutil.ignore_patterns("checkpoints", ".requests")
    return shutil.copytree(done.pool, tmp_path / "pool", ignore=ignored)


def state(status, run):
    return next(row for row in status.runs if row.run.run_id == run.run_id)


def edit(pool, run, **changes):
    file = pool / run.run_id / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_study_that_is_over_says_so_and_names_why_runs_failed(done):
    """S02: early losses count the finished alone."""
    status = study_status(done.plan, done.pool)
    assert status.over
    assert (status.n_finished, status.remaining_seconds) == (6, 0.0)
    broken = [row for row in status.runs if row.run.arm == "broken"]
    assert all(row.status == "failed" and "nan" in row.reason for row in broken)
    by_place = {(row.rung, row.arm): row for row in early_losses(status)}
    for row in done.rows:
        early = by_place[row.rung + 1, row.arm]
        if row.status == "finished":
            assert early.bits_per_byte == row.bits_per_byte
        else:
            assert (early.n_finished, early.bits_per_byte) == (0, None)


def test_finished_runs_are_known_by_their_summary_alone(done, pool):
    """Their logs can be long, and are looked at every two seconds."""
    known = study_status(done.plan, pool)
    finished = [row for row in known.runs if row.status == "finished"]
    for row in finished:
        (pool / row.run.run_id / "metrics.jsonl").unlink()
    assert [r for r in study_status(done.plan, pool).runs if r.status == "finished"] == finished


def test_the_time_to_go_is_that_of_the_nearest_known_run_in_proportion_to_flops(done, pool):
    runs = [run for run in done.plan.runs if run.arm != "broken"]
    for run in runs[:-2]:
        edit(pool, run, timing={"seconds": 10.0, "device_seconds": 10.0})
    for run in runs[-2:]:
        shutil.rmtree(pool / run.run_id)
    status = study_status(done.plan, pool)
    assert not status.over
    near = {run.arm: run for run in runs[:-2]}  # of the second rung
    wanted = [10.0 * run.rung.flops / near[run.arm].rung.flops for run in runs[-2:]]
    found = [state(status, run).remaining_seconds for run in runs[-2:]]
    assert found == pytest.approx(wanted)
    assert status.remaining_seconds == pytest.approx(sum(wanted))
    side_by_side = study_status(done.plan, pool, at_once=2)
    assert side_by_side.remaining_seconds == pytest.approx(max(sum(wanted) / 2, max(wanted)))
    assert study_status(done.plan, pool, at_once=9).remaining_seconds == pytest.approx(max(wanted))


def test_nothing_known_is_said_not_guessed(done, tmp_path):
    status = study_status(done.plan, tmp_path / "empty")
    assert {row.status for row in status.runs} == {"not started"}
    assert status.remaining_seconds is None


def test_a_run_that_writes_nothing_for_long_is_silent_not_running(done, pool):
    """W06: a killed run's folder goes on saying that it is running."""
    run = done.plan.runs[0]
    edit(pool, run, status="running")
    row = state(study_status(done.plan, pool), run)
    assert row.status == "running"
    assert row.remaining_seconds == 0.0  # all its steps are logged
    old = time.time() - 3600
    for file in (pool / run.run_id).iterdir():
        os.utime(file, (old, old))
    assert state(study_status(done.plan, pool), run).status == "silent"
