"""S01: a study whose runner and runs are killed at random ends as one that was left alone."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from builders import tiny_study, write_study
from ladderlm.study.results import TIMING_COLUMNS, Results

N_KILLS = 5
SECONDS = 900
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]


@pytest.fixture
def start(tiny_data, tmp_path):
    """Start `study run` of 2 arms x 3 rungs x 2 seeds in a folder; runs of some seconds each."""
    values = tiny_study(tiny_data)
    values["base"]["checkpoint.every_steps"] = 20
    values["ladder"] |= {"seeds": [1, 2], "tokens_per_param": 8, "noise_seeds": 1}
    values["ladder"]["flops"] = [16 * flops for flops in values["ladder"]["flops"]]
    file = write_study(tmp_path / "study.toml", values)
    code = "import sys; from ladderlm.cli.main import main; sys.exit(main(sys.argv[1:]))"

    def run(out: Path) -> subprocess.Popen:
        words = ("study", "run", str(file), "--out", str(out))
        with open(tmp_path / f"{out.name}.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-c", code, *words], stdout=log, stderr=log)

    return run


def kill_something(process: subprocess.Popen, rng: random.Random) -> str:
    """Kill the runner, one of its runs, or all of them at once, as a reboot does."""
    victim = rng.choice(["runner", "run", "all"])
    children = psutil.Process(process.pid).children(recursive=True)
    targets = {"runner": [], "run": rng.sample(children, min(len(children), 1)), "all": children}
    for child in targets[victim]:
        child.kill()
    if victim != "run":
        process.send_signal(signal.SIGKILL)
        process.wait()
    return victim


def table(out: Path) -> list[dict]:
    """Read results.csv without what may differ."""
    rows = Results.read(out / "results.csv")
    return [{k: v for k, v in row.to_json().items() if k not in TIMING_COLUMNS} for row in rows]


def test_random_kills_lose_repeat_and_half_count_nothing(start, tmp_path):
    left_alone = start(tmp_path / "alone")
    assert left_alone.wait(SECONDS) == 0
    rng = random.Random(5)
    killed: list[str] = []
    out = tmp_path / "killed"
    process = start(out)
    while len(killed) < N_KILLS:
        time.sleep(rng.uniform(4, 14))
        if process.poll() is None:
            killed.append(kill_something(process, rng))
        if process.poll() is not None:
            process = start(out)
    assert process.wait(SECONDS) == 0, (tmp_path / "killed.log").read_text()[-3000:]
    assert table(out) == table(tmp_path / "alone")
    seconds = {}
    for name in ("alone", "killed"):
        rows = Results.read(tmp_path / name / "results.csv")
        seconds[name] = sum(row.device_seconds for row in rows)
        assert len({row.run_id for row in rows}) == len(rows) == 13
        for row in rows:
            folder = tmp_path / name / "runs" / row.run_id
            text = (folder / "metrics.jsonl").read_text()
            lines = [json.loads(line) for line in text.splitlines()]
            places = [(line["kind"], line.get("split"), line["step"]) for line in lines]
            assert len(places) == len(set(places))  # every row once
            steps = [line["step"] for line in lines if line["kind"] == "train"]
            assert steps == list(range(1, row.n_steps + 1))
    print(f"killed: {killed}; device seconds {seconds}")
    assert 0.5 < seconds["killed"] / seconds["alone"] < 2  # a busy machine is not a fault
