"""Runs as users start them: in a process of their own, killed, stopped, on a bare machine."""

import json
import random
import signal
import socket
import subprocess
import time

import pytest

from ladderlm.config import to_dict
from ladderlm.run.environment import BARE_PACKAGES
from ladderlm.run.execute import execute
from reference.runs import outcome, write_config

SECONDS = 60  # nothing here takes longer


@pytest.fixture
def start(python, child_environment, tmp_path):
    """Start `python -m ladderlm.run CONFIG.json`."""
    started = []

    def give(config_file):
        log = open(tmp_path / "child.log", "ab")  # noqa: SIM115  # the child writes to it
        command = [python, "-m", "ladderlm.run", str(config_file)]
        started.append(
            (subprocess.Popen(command, env=child_environment, stdout=log, stderr=log), log)
        )
        return started[-1][0]

    yield give
    for child, log in started:
        child.kill()
        child.wait()
        log.close()


def n_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_line(path, number, child):
    """Wait until a log has that many lines, or the child has ended."""
    end = time.monotonic() + SECONDS
    while n_lines(path) < number and child.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)


@pytest.mark.long
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(start, tiny_config, tmp_path):
    """C01: kill -9, then the same command again; every row of the log once. C19."""
    fields = {
        "train__n_steps": 60,
        "model__dropout": 0.1,
        "checkpoint__every_steps": 3,
        "eval__n_evals": 20,
    }
    wanted = outcome(execute(tiny_config(**fields, out=str(tmp_path / "whole"))))
    config_file = write_config(tmp_path / "config.json", tiny_config(**fields))
    folder = tmp_path / "run"
    rng = random.Random(int(time.time()))
    n_kills = 0
    for share in (0.02, 0.35, 0.75):
        child = start(config_file)
        target = int(share * len(wanted["metrics"])) + rng.randint(0, 12)
        wait_for_line(folder / "metrics.jsonl", target, child)
        time.sleep(rng.uniform(0, 0.02))  # anywhere between two rows, a save included
        child.kill()
        n_kills += child.wait(SECONDS) == -signal.SIGKILL
    assert n_kills >= 1  # a fast machine may finish before the last ones
    assert start(config_file).wait(SECONDS) == 0
    assert outcome(folder) == wanted
    assert json.loads((folder / "summary.json").read_text())["restarts"] >= 1


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_exits_with_its_code_and_goes_on(number, code, start, tiny_config, tmp_path):
    """C05: as a scheduler or Ctrl-C stops it; an uninterrupted run gives the same bytes."""
    fields = {"train__n_steps": 40, "checkpoint__every_steps": 50, "eval__n_evals": 8}
    config = tiny_config(**fields)
    config_file = write_config(tmp_path / "config.json", config)
    child = start(config_file)
    wait_for_line(tmp_path / "run/metrics.jsonl", 8, child)
    child.send_signal(number)
    assert child.wait(SECONDS) == code
    assert "the state is saved" in (tmp_path / "child.log").read_text()
    execute(config)
    assert outcome(tmp_path / "run") == outcome(
        execute(tiny_config(**fields, out=str(tmp_path / "whole")))
    )


BARE = '''
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

ALLOWED = {*sys.stdlib_module_names, "ladderlm", *BARE_PACKAGES}
OF_TORCH = {  # what torch itself imports
    "functorch", "torchgen", "typing_extensions", "filelock", "sympy", "mpmath", "networkx",
    "jinja2", "markupsafe", "fsspec", "setuptools", "triton", "nvidia", "packaging",
}


class Guard:
    """Hide every package that a bare machine does not have."""

    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        frame = sys._getframe(1)
        while frame and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        importer = frame.f_globals.get("__name__", "").split(".")[0]
        known = top in ALLOWED or top.startswith("_sysconfigdata")
        if known or (top in OF_TORCH and importer not in ("ladderlm", "__main__")):
            return PathFinder.find_spec(name, path, target)
        return None


own = (BuiltinImporter, FrozenImporter)
sys.meta_path[:] = [finder for finder in sys.meta_path if finder in own] + [Guard()]
config_file, folder = sys.argv[1:]
try:
    import tiktoken
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the guard does not guard")

from ladderlm.config import from_dict, read_config_file
from ladderlm.run.__main__ import main
from ladderlm.training.run_config import RunConfig
from ladderlm.run.environment import BARE_PACKAGES
from ladderlm.run.execute import execute


def crash(row):
    if row["kind"] == "train" and row["step"] == 8:
        raise ZeroDivisionError


try:
    execute(from_dict(RunConfig, read_config_file(config_file)), observe=crash)
except ZeroDivisionError:
    pass
else:
    raise SystemExit("the crash did not come")
assert main([config_file, "--resume", "must"]) == 0

import numpy as np
from ladderlm.data.shards import open_data
from ladderlm.eval.config import Policy
from ladderlm.eval.meter import score_documents
from ladderlm.eval.subsets import summarise
from ladderlm.generation.config import SamplingConfig
from ladderlm.run.open import complete, load

run = load(folder)
split = open_data(run.config.data.path).split("val")
policy = Policy(context=32, stride=32)
losses = score_documents(run.model, split, np.arange(split.n_documents), policy)
text, completion, _ = complete(run, ["def "], 5, SamplingConfig())[0]
print("bits per byte", summarise(losses)["bits_per_byte"])
for name in ("tiktoken", "tokenizers", "scipy", "matplotlib", "tyro", "rich", "psutil"):
    assert name not in sys.modules, name
'''


def test_the_bare_runner_needs_nothing_but_torch_numpy_and_safetensors(
    python, child_environment, tiny_config, tmp_path
):
    """Prepared data, train, crash, resume, evaluate, generate; other imports are blocked."""
    config = tiny_config(eval__sample_prompts=["def "])
    config_file = write_config(tmp_path / "config.json", config)
    script = tmp_path / "bare.py"
    script.write_text(f"BARE_PACKAGES = {BARE_PACKAGES}\n{BARE}")
    done = subprocess.run(
        [python, str(script), str(config_file), str(tmp_path / "run")],
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["restarts"] == 1
    found = float(done.stdout.split()[-1])
    assert found == summary["evals"]["val"]["last"]["bits_per_byte"]
    # the slow encoder without tiktoken gives the same ids, so the same run comes out here
    whole = execute(tiny_config(eval__sample_prompts=["def "], out=str(tmp_path / "whole")))
    assert outcome(tmp_path / "run") == outcome(whole)
    assert to_dict(config)["out"] == str(tmp_path / "run")


@pytest.mark.long
def test_two_processes_give_the_losses_of_one(python, child_environment, tiny_config, tmp_path):
    """T04: a whole small run over gloo; ragged rows, so the shares of tokens differ."""
    fields = {"data__packing": "padded", "train__n_steps": 8, "eval__n_evals": 2}
    alone = execute(tiny_config(**fields, out=str(tmp_path / "alone")))
    config_file = write_config(tmp_path / "config.json", tiny_config(**fields))
    command = [python, "-m", "ladderlm.run", str(config_file)]
    with_socket = free_port()
    children = [
        subprocess.Popen(
            command,
            env={
                **child_environment,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(with_socket),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for child in children:
            _, errors = child.communicate(timeout=SECONDS)
            assert child.returncode == 0, errors[-3000:]
    finally:
        for child in children:
            child.kill()
            child.wait()
    one, two = (outcome(folder) for folder in (alone, tmp_path / "run"))
    assert len(one["metrics"]) == len(two["metrics"])
    for a, b in zip(one["metrics"], two["metrics"], strict=True):
        assert (a["kind"], a["step"], a["n_tokens"], a["flops"]) == (
            b["kind"],
            b["step"],
            b["n_tokens"],
            b["flops"],
        )
        # gradients are added in another order: float32 rounding, grown over 8 updates
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    assert two["summary"]["world_size"] == 2
    assert one["summary"]["run_id"] == two["summary"]["run_id"]


def free_port():
    """Give a port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
