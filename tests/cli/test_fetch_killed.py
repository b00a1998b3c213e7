"""`fetch pile` killed with -9 at random moments; the same command ends with the same bytes."""

import json
import random
import subprocess
import time

import pytest

from mirror import Answer, serve

try:
    from compression import zstd
except ImportError:
    from backports import zstd

N_KILLS = 50
RNG = random.Random(11)
LINES = [json.dumps({"text": RNG.randbytes(600).hex()}).encode() + b"\n" for _ in range(6000)]
SHARDS = {n: zstd.compress(b"".join(LINES[n::3])) for n in (0, 1, 2)}  # 1.3 MB each
MODES = {
    "whole": ["--shards", "0,1,2", "--jobs", "2"],
    "head": ["--shards", "0,1", "--max-bytes", "1.5MB"],
}


@pytest.fixture
def mirror():
    """A slow server with three shards: a whole one takes more than a second."""
    with serve() as running:
        running.always = Answer(bytes_a_second=1_000_000)
        for n, data in SHARDS.items():
            running.files[f"/pile/train/{n:02d}.jsonl.zst"] = data
        yield running


@pytest.fixture
def start(python, child_environment, mirror):
    """Start the command; at the end none is left."""
    started = []

    def give(out, words):
        line = [python, "-m", "ladderlm.cli.main", "fetch", "pile", "--split", "train"]
        line += ["--source", f"{mirror.url}/pile", "--out", str(out), *words]
        pipe = subprocess.PIPE
        environment = {**child_environment, "no_proxy": "127.0.0.1"}
        started.append(subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe))
        return started[-1]

    yield give
    for process in started:
        process.kill()
        process.communicate()


def files_of(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def kill_at_random(mode, n_kills, start, tmp_path, rng):
    """Run the command until so many kills have hit it; return kills per finished result."""
    began = time.monotonic()
    process = start(tmp_path / "good", MODES[mode])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    longest = time.monotonic() - began
    good = files_of(tmp_path / "good")
    assert {name.endswith(".jsonl.zst") or name == "pile.json" for name in good} == {True}
    kills = [0]
    while sum(kills) < n_kills or kills[-1]:
        out = tmp_path / f"{mode}-{len(kills)}"
        process = start(out, MODES[mode])
        wait = rng.uniform(0, longest) if sum(kills) < n_kills else 60
        try:
            _, errors = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills[-1] += 1
            for name, data in files_of(out).items() if out.exists() else ():
                if name.endswith(".jsonl.zst") and ".tmp-" not in name:
                    assert data == good[name], name  # the final name has the final bytes
            continue
        assert process.returncode == 0, errors
        assert files_of(out) == good
        kills.append(0)
    return kills


def test_a_head_that_was_killed_ends_as_the_same_bytes(mirror, start, tmp_path):
    """N07."""
    mirror.always = Answer(bytes_a_second=4_000_000)
    assert sum(kill_at_random("head", 2, start, tmp_path, random.Random(2))) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", MODES)
def test_fifty_kills_leave_the_same_bytes(mode, mirror, start, tmp_path):
    """N07: data and record byte-equal to those of a command that was never stopped."""
    kills = kill_at_random(mode, N_KILLS, start, tmp_path, random.Random(7))
    print(f"{mode}: {sum(kills)} kills over {len(kills) - 1} results, {kills}")
    assert sum(kills) == N_KILLS
