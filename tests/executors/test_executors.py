"""The local executor, and what the driver of jobs makes of it.

What every executor must do is in `test_contract.py`.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from ladderlm.errors import ConfigError, ExecutorError
from ladderlm.executors.base import Job, Resources, State, run_jobs
from ladderlm.executors.choice import make_executor as make_named
from ladderlm.executors.local import LocalExecutor

SECONDS = 30  # nothing here takes longer


@pytest.fixture
def make_executor():
    """Return the class; called with the threads it may fill."""
    return LocalExecutor


@pytest.fixture
def executor(make_executor):
    """An executor with room for two single-threaded jobs."""
    return make_executor(2)


@pytest.fixture
def shell(tmp_path):
    """Make a job that runs a line of shell; its log is NAME.log."""

    def give(name, line, n_threads=1, **fields):
        argv = ("/bin/sh", "-c", line)
        resources = Resources(n_threads=n_threads)
        return Job(name, argv, tmp_path / f"{name}.log", resources=resources, **fields)

    return give


def wait_until(condition):
    """Wait for a condition, at most some seconds."""
    end = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def alive(pid):
    """Return whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def fast(executor, jobs, **options):
    return run_jobs(executor, jobs, poll_seconds=0.01, **options)


def test_arguments_arrive_as_they_are(executor, tmp_path):
    """No shell stands between: spaces, quotes, stars and line ends are data."""
    words = ("a b", "$HOME", "*", "'\"", "two\nlines", "", "ü")
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    job = Job("words", (sys.executable, "-c", code, *words), tmp_path / "deep/er/words.log")
    (outcome,) = fast(executor, [job])
    assert (outcome.state, outcome.exit_code, outcome.n_tries) == (State.DONE, 0, 1)
    assert tuple(json.loads((tmp_path / "deep/er/words.log").read_text())) == words


def test_output_and_errors_are_appended_to_the_log(executor, shell, tmp_path):
    (tmp_path / "both.log").write_text("before\n")
    fast(executor, [shell("both", "echo out; echo err >&2")])
    assert (tmp_path / "both.log").read_text() == "before\nout\nerr\n"


def test_the_environment_is_laid_over_that_of_the_parent(executor, shell, tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_KEPT", "kept")
    monkeypatch.setenv("LADDER_CHANGED", "old")
    job = shell("env", 'echo "$LADDER_KEPT $LADDER_CHANGED"', env={"LADDER_CHANGED": "new"})
    fast(executor, [job])
    assert (tmp_path / "env.log").read_text() == "kept new\n"
    assert os.environ["LADDER_CHANGED"] == "old"


def test_standard_input_is_empty(executor, shell, tmp_path):
    """X01: a job that asks for input gets an end of file, never the user's terminal."""
    fast(executor, [shell("input", 'if read line; then echo "$line"; else echo none; fi')])
    assert (tmp_path / "input.log").read_text() == "none\n"


@pytest.mark.parametrize("code", [0, 1, 2, 3, 143])
def test_exit_codes_come_back(executor, shell, code):
    handle = executor.submit(shell("code", f"exit {code}"))
    assert executor.exit_code(handle) is None
    wait_until(lambda: executor.poll(handle) in (State.DONE, State.FAILED))
    assert executor.poll(handle) is (State.FAILED if code else State.DONE)
    assert executor.exit_code(handle) == code


def test_a_job_killed_by_a_signal_has_failed(executor, shell):
    (outcome,) = fast(executor, [shell("killed", "kill -9 $$")], max_tries=1)
    assert outcome.state is State.FAILED
    assert outcome.exit_code in (-9, 137)


@pytest.mark.parametrize("room", [1, 2, 3])
def test_never_more_threads_run_than_there_are_cores(make_executor, shell, room, tmp_path):
    """Each job counts itself while it runs, beside all others."""
    sizes = [min(size, room) for size in (1, 2, 1, 3, 1, 1)]
    line = 'echo "+{n}" >> {log}; sleep 0.04; echo "-{n}" >> {log}'
    log = tmp_path / "count"
    jobs = [shell(f"job-{i}", line.format(n=n, log=log), n) for i, n in enumerate(sizes)]
    outcomes = fast(make_executor(room), jobs)
    assert all(outcome.state is State.DONE for outcome in outcomes)
    steps = [int(step) for step in log.read_text().split()]
    running = [sum(steps[: i + 1]) for i in range(len(steps))]
    assert len(steps) == 2 * len(sizes)
    assert max(running) <= room
    assert running[-1] == 0
    if room > 1:
        assert max(running) > 1  # the room is used


def test_jobs_start_in_the_order_given(make_executor, shell, tmp_path):
    jobs = [shell(f"job-{i}", f"echo {i} >> {tmp_path}/order") for i in range(5)]
    fast(make_executor(1), jobs)
    assert (tmp_path / "order").read_text().split() == list("01234")


def test_a_job_larger_than_the_machine_runs_alone(make_executor, shell, tmp_path):
    jobs = [shell("a", "sleep 0.05"), shell("large", "exit 0", 8), shell("b", "exit 0")]
    assert [o.state for o in fast(make_executor(2), jobs)] == [State.DONE] * 3


def test_a_queued_job_waits_and_says_so(make_executor, shell):
    executor = make_executor(1)
    first = executor.submit(shell("first", "sleep 0.2"))
    second = executor.submit(shell("second", "exit 0"))
    assert executor.poll(first) is State.RUNNING
    assert executor.poll(second) is State.QUEUED
    wait_until(lambda: executor.poll(second) is State.DONE)
    assert executor.poll(first) is State.DONE


def test_a_failing_job_is_tried_again_a_bounded_number_of_times(executor, shell, tmp_path):
    """S08: `false` in a loop; the pauses grow, then it is given up."""
    job = Job("false", ("/bin/sh", "-c", f"date +%s.%N >> {tmp_path}/tries; false"), tmp_path / "l")
    began = time.monotonic()
    (outcome,) = fast(executor, [job], max_tries=4, back_off_seconds=0.1)
    assert (outcome.state, outcome.exit_code, outcome.n_tries) == (State.FAILED, 1, 4)
    starts = [float(line) for line in (tmp_path / "tries").read_text().split()]
    pauses = [b - a for a, b in itertools.pairwise(starts)]
    assert len(starts) == 4
    for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True):
        assert pause >= 0.95 * least
    assert time.monotonic() - began < SECONDS


def test_two_tries_are_the_default(executor, shell, tmp_path):
    job = shell("twice", f"echo x >> {tmp_path}/tries; exit 1")
    (outcome,) = fast(executor, [job], back_off_seconds=0.01)
    assert outcome.n_tries == 2
    assert (tmp_path / "tries").read_text() == "x\nx\n"


def test_wrong_use_is_never_tried_again(executor, shell, tmp_path):
    """S08: exit code 2 would fail the same way for ever."""
    job = shell("wrong", f"echo x >> {tmp_path}/tries; exit 2")
    (outcome,) = fast(executor, [job], max_tries=5, back_off_seconds=0.01)
    assert (outcome.state, outcome.exit_code, outcome.n_tries) == (State.FAILED, 2, 1)
    assert (tmp_path / "tries").read_text() == "x\n"


def test_a_job_that_succeeds_at_the_second_try_is_done(executor, shell, tmp_path):
    job = shell("moody", f"test -e {tmp_path}/seen || {{ touch {tmp_path}/seen; exit 1; }}")
    (outcome,) = fast(executor, [job], back_off_seconds=0.01)
    assert (outcome.state, outcome.exit_code, outcome.n_tries) == (State.DONE, 0, 2)


def test_one_failure_does_not_stop_the_others(executor, shell):
    """S02: outcomes stand in the order of the jobs."""
    lines = ("exit 0", "exit 2", "sleep 0.05", "kill -9 $$", "exit 0")
    jobs = [shell(f"job-{i}", line) for i, line in enumerate(lines)]
    outcomes = fast(executor, jobs, back_off_seconds=0.01)
    assert [outcome.job for outcome in outcomes] == jobs
    assert [outcome.state.value for outcome in outcomes] == [
        *("done", "failed", "done", "failed", "done")
    ]


@pytest.mark.parametrize("end", ["exit 0", "exit 1"])
def test_a_job_that_comes_after_another_is_held_until_that_has_had_all_its_tries(
    end, executor, shell, tmp_path
):
    """A job that is named by none of the call keeps nobody."""
    said = tmp_path / "said"
    jobs = [
        shell("second", f"echo second >> {said}", after="first"),
        shell("third", f"echo third >> {said}", after="elsewhere"),
        shell("first", f"sleep 0.2; echo first >> {said}; {end}"),
    ]
    outcomes = fast(executor, jobs, back_off_seconds=0.1)
    assert [outcome.job.name for outcome in outcomes] == ["second", "third", "first"]
    assert outcomes[0].state is State.DONE
    n_tries = 1 if end == "exit 0" else 2
    assert said.read_text().split() == ["third", *["first"] * n_tries, "second"]


def test_changes_are_told_once_each(executor, shell):
    told = []
    fast(
        executor,
        [shell("good", "sleep 0.5"), shell("bad", "sleep 0.5; exit 1")],
        on_change=lambda job, state: told.append((job.name, state.value)),
        back_off_seconds=0.01,
    )
    assert [state for name, state in told if name == "good"] == ["running", "done"]
    assert [state for name, state in told if name == "bad"] == ["running", "failed"] * 2


def test_no_jobs_are_no_outcomes(executor):
    assert fast(executor, []) == []


CAREFUL = (
    "trap 'echo saved > {done}; exit 143' TERM; echo ready > {ready}; while :; do sleep 0.02; done"
)


def test_cancel_sends_sigterm_so_that_a_run_saves(executor, shell, tmp_path):
    """C05: the run ends by itself, with its own code."""
    line = CAREFUL.format(done=tmp_path / "saved", ready=tmp_path / "ready")
    handle = executor.submit(shell("careful", line))
    wait_until((tmp_path / "ready").exists)
    executor.cancel(handle)
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert executor.poll(handle) is State.FAILED
    assert executor.exit_code(handle) == 143


def test_a_cancelled_job_in_the_queue_never_starts(make_executor, shell, tmp_path):
    executor = make_executor(1)
    first = executor.submit(shell("first", "sleep 0.1"))
    second = executor.submit(shell("second", f"touch {tmp_path}/started"))
    executor.cancel(second)
    wait_until(lambda: executor.poll(first) is State.DONE)
    time.sleep(0.05)
    executor.poll(second)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_cancels_all_jobs_and_goes_on_up(make_executor, shell, tmp_path, error):
    """C05: running ones are told to save, queued ones are dropped."""
    jobs = [
        shell(f"job-{i}", CAREFUL.format(done=tmp_path / f"saved-{i}", ready=tmp_path / f"r-{i}"))
        for i in range(3)
    ]

    def interrupt(job, state):
        if job.name == "job-1" and state is State.RUNNING:
            wait_until(lambda: (tmp_path / "r-0").exists() and (tmp_path / "r-1").exists())
            raise error

    with pytest.raises(error):
        fast(make_executor(2), jobs, on_change=interrupt)
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]
    assert not (tmp_path / "r-2").exists()


def test_a_program_that_is_not_there_is_named(executor, tmp_path):
    with pytest.raises(ExecutorError, match="cannot start no-such-program"):
        executor.submit(Job("missing", ("no-such-program",), tmp_path / "log"))


def test_devices_that_it_has_not_are_refused(tmp_path):
    """An option that cannot be honoured is an error, not a warning."""
    job = Job("gpu", ("true",), tmp_path / "log", resources=Resources(n_devices=2))
    with pytest.raises(ExecutorError, match="needs 2 GPUs, but this machine has 1"):
        LocalExecutor(2, devices=["0"]).submit(job)


def test_a_job_has_its_gpus_to_itself_and_is_told_which(shell, tmp_path):
    """Two GPUs, jobs of 1, 1, 2 and 0: each sees its own, no two the same at one time."""
    line = f'echo "+$CUDA_VISIBLE_DEVICES" >> {tmp_path}/seen; sleep 0.1; echo - >> {tmp_path}/seen'
    jobs = [shell(f"job-{i}", line) for i in range(4)]
    needs = (1, 1, 2, 0)
    jobs = [
        replace(job, resources=Resources(n_devices=n)) for job, n in zip(jobs, needs, strict=True)
    ]
    outcomes = fast(LocalExecutor(9, devices=["3", "7"]), jobs)
    assert [outcome.state for outcome in outcomes] == [State.DONE] * 4
    seen = (tmp_path / "seen").read_text().split()
    assert sorted(word for word in seen if word != "-") == ["+", "+3", "+3,7", "+7"]
    both = seen.index("+3,7")
    assert seen[:both].count("-") == 2


def test_jobs_share_the_memory_that_there_is(shell, tmp_path):
    count = tmp_path / "count"  # the first job waits for a second one, at most 10 seconds
    wait = (
        f"n=0; until [ $(grep -c + {count}) -ge 2 -o $n -ge 200 ]; do sleep 0.05; n=$((n+1)); done"
    )
    line = f"echo +1 >> {count}; {wait}; sleep 0.05; echo -1 >> {count}"
    jobs = [
        replace(shell(f"job-{i}", line), resources=Resources(memory_bytes=size))
        for i, size in enumerate([4, 4, 4, 99, 1])
    ]
    fast(LocalExecutor(9, memory_bytes=10), jobs)
    steps = [int(step) for step in count.read_text().split()]
    running = [sum(steps[: i + 1]) for i in range(len(steps))]
    assert len(steps) == 10
    assert max(running) == 2


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_named_with_its_extra(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExecutorError) as caught:
        make_named(name, tmp_path)
    assert f"install ladderlm[{name}]" in caught.value.fix


def test_threads_that_are_not_ours_to_share_out_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--threads 3 with --executor slurm"):
        make_named("slurm", tmp_path, 3)
    with pytest.raises(ConfigError, match="--threads must be at least 1, got 0"):
        make_named("local", tmp_path, 0)


PARENT = """
import sys, time
from pathlib import Path
from ladderlm.executors.base import Job
from ladderlm.executors.local import LocalExecutor

line = "echo $$ > {pid}.part; mv {pid}.part {pid}; while :; do sleep 0.05; done"
executor = LocalExecutor(1)
handle = executor.submit(Job("child", ("/bin/sh", "-c", line), Path("{log}")))
while True:
    executor.poll(handle)
    time.sleep(0.05)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_child_dies_with_its_parent(tmp_path, child_environment):
    """S01: kill -9 of the runner leaves no orphan that trains on."""
    file = tmp_path / "pid"
    code = PARENT.format(pid=file, log=tmp_path / "child.log")
    parent = subprocess.Popen([sys.executable, "-c", code], env=child_environment)
    try:
        wait_until(file.exists)
        child = int(file.read_text())
        assert alive(child)
        parent.send_signal(signal.SIGKILL)
        assert parent.wait(SECONDS) == -signal.SIGKILL
        wait_until(lambda: not alive(child))
    finally:
        parent.kill()
        parent.wait()


def test_the_interruption_of_the_terminal_does_not_reach_the_children(executor, tmp_path):
    """C05: Ctrl-C is for the runner, which then asks each child to save."""
    code = "import os; print(os.getpgrp())"
    handle = executor.submit(Job("own", (sys.executable, "-c", code), tmp_path / "group"))
    wait_until(lambda: executor.poll(handle) is State.DONE)
    assert int((tmp_path / "group").read_text()) != os.getpgrp()
