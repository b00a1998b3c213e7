"""One contract for all executors, on real clusters of this machine.

Jobs are put together so that a cluster is asked seldom; what is peculiar to the local executor is
tested in `test_executors.py`. A new executor joins `EXECUTORS` and passes as it is.
"""

import json
import os
import signal
import sys
import time
from dataclasses import replace

import pytest

from builders import (
    InOwnProcess,
    content_of,
    make_records,
    tiny_study,
    write_jsonl,
    write_study,
)
from ladderlm.cli.main import main
from ladderlm.executors.base import Job, Resources, State, run_jobs
from ladderlm.executors.local import LocalExecutor
from ladderlm.study.launch import launch
from ladderlm.study.plan import plan_study
from ladderlm.study.results import TIMING_COLUMNS, collect_results
from ladderlm.study.spec import read_study

CLUSTERS = [pytest.param(name, marks=pytest.mark.cluster) for name in ("ray", "slurm")]
EXECUTORS = ["local", *CLUSTERS]
SECONDS = 60


@pytest.fixture(params=EXECUTORS)
def name(request):
    return request.param


@pytest.fixture
def make_executor(name, request):
    """Return a maker of executors with two cores; called with a folder of their own."""
    if name == "local":
        return lambda folder: LocalExecutor(2)
    return request.getfixturevalue(f"on_{name}")


@pytest.fixture
def executor(make_executor, tmp_path):
    return make_executor(tmp_path / "executor")


def shell(logs, name, line, n_threads=1, **fields):
    """Make a job that runs a line of shell; its log is NAME.log."""
    resources = Resources(n_threads=n_threads)
    return Job(name, ("/bin/sh", "-c", line), logs / f"{name}.log", resources=resources, **fields)


def wait_until(condition):
    """Wait for a condition, at most a minute."""
    end = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_jobs_get_what_they_are_given_and_say_how_they_ended(executor, tmp_path, monkeypatch):
    """X01: words, environment, folder, log, empty input and exit codes, of many jobs at once."""
    monkeypatch.setenv("LADDER_KEPT", "kept")
    monkeypatch.setenv("LADDER_CHANGED", "old")
    words = ("a b", "$HOME", "*", "'\"", "two\nlines", "", "ü")
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    environment = 'echo "$LADDER_KEPT $LADDER_CHANGED"; pwd; if read line; then echo input; fi'
    place = tmp_path / "some where"
    place.mkdir()
    (tmp_path / "both.log").write_text("before\n")
    log = tmp_path / "deep/er/words.log"
    jobs = [
        Job("words", (sys.executable, "-c", code, *words), log),
        shell(tmp_path, "env", environment, env={"LADDER_CHANGED": "new"}, folder=place),
        shell(tmp_path, "both", "echo out; echo err >&2"),
        *(shell(tmp_path, f"code-{code}", f"exit {code}") for code in (1, 2, 143)),
        shell(tmp_path, "killed", "kill -9 $$"),
        shell(
            tmp_path, "moody", f"test -e {tmp_path}/seen || {{ touch {tmp_path}/seen; exit 1; }}"
        ),
    ]
    ended = run_jobs(executor, jobs, back_off_seconds=0.01, poll_seconds=0.02)
    outcomes = {outcome.job.name: outcome for outcome in ended}
    assert tuple(json.loads(log.read_text())) == words
    assert (tmp_path / "env.log").read_text() == f"kept new\n{place}\n"
    assert (tmp_path / "both.log").read_text() == "before\nout\nerr\n"
    for name in ("words", "env", "both"):
        assert (outcomes[name].state, outcomes[name].exit_code) == (State.DONE, 0), name
    for code, tries in ((1, 2), (2, 1), (143, 2)):
        outcome = outcomes[f"code-{code}"]
        assert (outcome.state, outcome.exit_code) == (State.FAILED, code)
        assert outcome.n_tries == tries
    assert outcomes["killed"].state is State.FAILED
    assert outcomes["killed"].exit_code in (-9, 137)
    assert (outcomes["moody"].state, outcomes["moody"].n_tries) == (State.DONE, 2)


CAREFUL = (
    "trap 'echo saved > {done}; exit 143' TERM; echo $PPID > {ready}.part; "
    "mv {ready}.part {ready}; while :; do sleep 0.05; done"
)


def test_a_job_waits_for_room_and_ends_by_saving_when_it_is_cancelled(executor, tmp_path):
    """C05: the queue is left without a start, the running job with its own code."""
    line = CAREFUL.format(done=tmp_path / "saved", ready=tmp_path / "ready")
    first = executor.submit(shell(tmp_path, "first", line, 2))
    wait_until((tmp_path / "ready").exists)
    second = executor.submit(shell(tmp_path, "second", f"touch {tmp_path}/started", 2))
    wait_until(lambda: executor.poll(first) is State.RUNNING)
    assert executor.poll(second) is State.QUEUED
    assert executor.exit_code(first) is None
    executor.cancel(first, second)
    assert (tmp_path / "saved").read_text() == "saved\n"
    wait_until(lambda: executor.poll(first) is State.FAILED)
    assert executor.exit_code(first) == 143
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", CLUSTERS, indirect=True)  # local: the runner itself
def test_a_job_whose_worker_is_lost_is_started_again(executor, tmp_path):
    """S01: kill -9 of what watches the job on its node."""
    ready = tmp_path / "ready"
    line = f"test -e {ready} && exit 0; " + CAREFUL.format(done=tmp_path / "saved", ready=ready)

    def kill_worker(job, state):
        if state is State.RUNNING and not (tmp_path / "killed").exists():
            wait_until(ready.exists)
            os.kill(int(ready.read_text()), signal.SIGKILL)
            (tmp_path / "killed").touch()

    job = shell(tmp_path, "lost", line)
    (outcome,) = run_jobs(executor, [job], kill_worker, back_off_seconds=0.01)
    assert (outcome.state, outcome.n_tries) == (State.DONE, 2)


def test_the_same_study_gives_the_same_losses(executor, tiny_data, tmp_path):
    """The study file does not know where its runs are carried out."""
    values = tiny_study(tiny_data)
    values["ladder"] |= {"flops": values["ladder"]["flops"][:1], "holdout": 0}
    spec = read_study(write_study(tmp_path / "study.toml", values))
    tables = []
    for place, chosen in (("here", InOwnProcess()), ("there", executor)):
        plan = plan_study(spec, tmp_path / place)
        outcomes = launch(plan, tmp_path / place, chosen)
        assert [outcome.state for outcome in outcomes] == [State.DONE] * 2
        rows = collect_results(plan, tmp_path / place)
        tables.append([replace(row, **dict.fromkeys(TIMING_COLUMNS)) for row in rows])
    assert tables[0] == tables[1]


@pytest.mark.parametrize("name", CLUSTERS, indirect=True)  # local: in tests/study
def test_branches_begin_at_their_trunks_wherever_these_were_made(executor, tiny_data, tmp_path):
    """Trunks end before their branches are handed over, and these find what was kept for them."""
    values = tiny_study(tiny_data)
    values["base"]["optim.schedule"] = "wsd"
    values["ladder"] |= {"flops": values["ladder"]["flops"][:1], "holdout": 0}
    values["ladder"]["branches"] = [0.5, 1]
    spec = read_study(write_study(tmp_path / "study.toml", values))
    tables = []
    for place, chosen in (("here", InOwnProcess()), ("there", executor)):
        pool = tmp_path / place
        plan = plan_study(spec, pool)
        outcomes = launch(plan, pool, chosen)
        assert [outcome.state for outcome in outcomes] == [State.DONE] * 4
        rows = collect_results(plan, pool)
        tables.append([replace(row, **dict.fromkeys(TIMING_COLUMNS)) for row in rows])
        for run in plan.runs:
            summary = json.loads((pool / run.run_id / "summary.json").read_text())
            wanted = {"trunk": run.trunk, "step": run.shared_steps} if run.trunk else None
            assert summary.get("branched_from") == wanted
    assert tables[0] == tables[1]


def test_prepared_data_does_not_depend_on_what_encoded_it(
    name, make_executor, tiny_tokenizer_folder, tmp_path, monkeypatch, capsys
):
    """Two parts as two jobs, merged: the same bytes as one process."""
    monkeypatch.setattr("ladderlm.cli.prepare.make_executor", lambda _, place: make_executor(place))
    write_jsonl(tmp_path / "corpus/train.jsonl", make_records(20, seed=1))
    words = ["prepare", str(tmp_path / "corpus"), "--tokenizer", str(tiny_tokenizer_folder)]
    assert main([*words, "--split", "train", "--out", str(tmp_path / "here")]) == 0
    there = ["--split", "train", "--out", str(tmp_path / "there"), "--executor", name]
    assert main([*words, *there]) == 0, capsys.readouterr().err
    assert content_of(tmp_path / "there") == content_of(tmp_path / "here")
    assert not (tmp_path / "there.parts").exists()


@pytest.mark.cluster
def test_slurm_jobs_of_a_runner_that_died_are_found_again(on_slurm, tmp_path):
    """S01: they are neither lost nor started twice."""
    line = f"echo x >> {tmp_path}/starts; while ! test -e {tmp_path}/go; do sleep 0.05; done"
    job = shell(tmp_path, "long", line)
    handle = on_slurm(tmp_path / "executor").submit(job)
    wait_until((tmp_path / "starts").exists)
    other = on_slurm(tmp_path / "executor")
    assert other.reattach(replace(job, log=tmp_path / "elsewhere.log")) is None
    assert other.reattach(job) == handle
    (tmp_path / "go").touch()
    (outcome,) = run_jobs(other, [job], poll_seconds=0.05)
    assert (outcome.state, outcome.exit_code) == (State.DONE, 0)
    assert (tmp_path / "starts").read_text() == "x\n"
