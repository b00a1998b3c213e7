"""Carrying out a study: nothing twice, nothing lost, one failure stops nobody."""

import csv
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from builders import InOwnProcess, tiny_study, write_study
from ladderlm.cli.main import main
from ladderlm.executors.base import State
from ladderlm.study.launch import launch, pending_runs

SECONDS = 120


def test_one_failing_run_does_not_stop_the_others(done):
    """S02, S08: each broken run is tried twice and given up; the rest finish."""
    states = {outcome.job.name: outcome for outcome in done.outcomes}
    for run in done.plan.runs:
        outcome = states[run.run_id]
        broken = run.arm == "broken"
        assert outcome.state is (State.FAILED if broken else State.DONE)
        assert outcome.n_tries == (2 if broken else 1)
        assert done.started.count(run.run_id) == outcome.n_tries
    assert {run.arm for run in pending_runs(done.plan, done.pool)} == {"broken"}


def test_finished_runs_are_not_started_again(done):
    executor = InOwnProcess()
    told = []
    outcomes = launch(done.plan, done.pool, executor, lambda run, state: told.append(run.arm))
    assert set(told) == {"broken"}
    assert {outcome.job.name for outcome in outcomes} == {
        run.run_id for run in done.plan.runs if run.arm == "broken"
    }
    assert set(executor.started) == {outcome.job.name for outcome in outcomes}


def test_a_request_to_stop_goes_on_up(done):
    def stop(run, state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(done.plan, done.pool, InOwnProcess(), stop)


@pytest.fixture
def ladderlm(capfd, monkeypatch):
    """Run a command line in this process; its runs still get a process each."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words):
        code = main([str(word) for word in words])
        said = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    return run


@pytest.fixture(scope="module")
def first(tiny_data, tmp_path_factory):
    """A study of two arms on two rungs, run once as users do; its folder and what it said."""
    folder = tmp_path_factory.mktemp("command")
    values = tiny_study(tiny_data)
    values["ladder"]["flops"] = values["ladder"]["flops"][:2]
    file = write_study(folder / "study.toml", values)
    code = "import sys; from ladderlm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ("study", "run", str(file), "--out", str(folder / "out"))
    said = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return file, folder / "out", said


def state_of(out):
    """Time, inode and bytes of every file of the runs that a second start must not touch."""
    return {
        str(path.relative_to(out)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted((out / "runs").rglob("*"))
        if path.is_file() and ".requests" not in path.parts
    }


def table(out):
    with open(out / "results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.long
def test_a_study_runs_from_its_file_to_its_fits(first):
    file, out, said = first
    assert "study tiny: 4 runs" in said.stderr
    assert "[4/4]" in said.stderr
    rows = table(out)
    assert {row["status"] for row in rows} == {"finished"}
    assert sorted(path.name for path in (out / "runs").iterdir() if path.name[0] != ".") == sorted(
        row["run_id"] for row in rows
    )
    fits = json.loads((out / "fits.json").read_text())
    assert fits["study"] == "tiny"
    assert (out / "study.toml").read_bytes() == file.read_bytes()
    assert json.loads((out / "study.json").read_text())["pool"] == "runs"
    for axis in ("flops", "device_seconds", "tokens"):
        assert (out / f"figures/scaling-{axis}.svg").stat().st_size > 1000
        assert (out / f"figures/scaling-{axis}.png").stat().st_size > 1000


@pytest.mark.long
def test_a_second_start_makes_again_what_was_deleted_and_nothing_else(first, ladderlm):
    """S01, S06: finished runs keep their very files, and the table is the same but for times."""
    file, out, _ = first
    before, rows = state_of(out), table(out)
    lost = rows[1]["run_id"]
    shutil.rmtree(out / "runs" / lost)
    again = ladderlm("study", "run", file, "--out", out)
    assert again.returncode == 0, again.stderr
    assert "3 of 4 runs are finished already" in again.stderr
    kept = {name: state for name, state in before.items() if lost not in name}
    now = state_of(out)
    assert {name: state for name, state in now.items() if lost not in name} == kept
    assert {name for name in now if lost in name} == {name for name in before if lost in name}
    timing = ("seconds", "device_seconds")
    for old, new in zip(rows, table(out), strict=True):
        assert {k: v for k, v in new.items() if k not in timing} == {
            k: v for k, v in old.items() if k not in timing
        }


@pytest.mark.long
def test_plan_and_status_print_json_and_run_nothing(first, ladderlm):
    file, out, _ = first
    before = state_of(out)
    plan = json.loads(ladderlm("study", "plan", file, "--out", out, "--no-probe", "--json").stdout)
    assert len(plan["runs"]) == 4
    status = json.loads(ladderlm("study", "status", file, "--out", out, "--json").stdout)
    assert {row["status"] for row in status["runs"]} == {"finished"}
    assert all(row["step"] == row["n_steps"] for row in status["runs"])
    assert all(row["n_finished"] == 1 and row["bits_per_byte"] for row in status["early_losses"])
    assert status["timing"]["remaining_seconds"] == 0
    assert state_of(out) == before


def test_wrong_use_is_an_error_of_one_line(ladderlm, tmp_path):
    for words in (("study", "rnu", "x.toml"), ("study", "plan", tmp_path / "none.toml")):
        said = ladderlm(*words)
        assert said.returncode == 2
        assert said.stderr.strip()
