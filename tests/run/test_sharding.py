"""State cut over two processes: the losses of one, and checkpoints that any number takes over."""

import json
import socket
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ladderlm.checkpoint.layout import list_checkpoints
from ladderlm.checkpoint.load import load_newest
from ladderlm.config import to_dict
from ladderlm.errors import CheckpointError
from ladderlm.run.execute import execute
from reference.runs import BrokenError, break_at, lines_of

# Five rows on two processes, two at a time: three rows and two, two passes and one. Padded rows
# differ in their targets.
FIELDS = {
    "data__packing": "padded",
    "train__global_batch_tokens": 160,
    "train__n_steps": 6,
    "train__ema_decay": 0.9,
    "optim__name": "muon",
    "eval__n_evals": 2,
    "eval__n_documents": 3,
    "eval__n_samples": 1,
    "checkpoint__every_steps": 3,
    "execution__micro_batch_seqs": 2,
}
WORKER = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from ladderlm.config import from_dict
from ladderlm.errors import Stopped
from ladderlm.run.config import RunConfig
from ladderlm.run.execute import execute

for port, stop, values in json.loads(sys.stdin.read()):
    os.environ["MASTER_PORT"] = str(port)

    def observe(row):
        if row["kind"] == "train" and row["step"] == stop:
            os.kill(os.getpid(), signal.SIGUSR1)

    try:
        execute(from_dict(RunConfig, values), observe=observe)
    except Stopped:
        print("stopped")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_on_two(python, environment, jobs):
    """Carry out runs one after another on the same two processes."""
    work = json.dumps([(free_port(), stop, to_dict(config)) for config, stop in jobs])
    shared = {**environment, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    children = [
        subprocess.Popen(
            [python, "-c", WORKER],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write(work)
            child.stdin.close()
            child.stdin = None
        for child in children:
            _, errors = child.communicate(timeout=120)
            assert child.returncode == 0, errors[-3000:]
    finally:
        for child in children:
            child.kill()
            child.wait()


def losses_of(folder: Path) -> list[tuple[str, int, float]]:
    rows = lines_of(folder / "metrics.jsonl")
    found = [(r["kind"], r["step"], r["loss"]) for r in rows]
    return found + [("average", r["step"], r["average"]["loss"]) for r in rows if "average" in r]


def assert_same_losses(folder: Path, wanted: Path) -> None:
    for ours, theirs in zip(losses_of(folder), losses_of(wanted), strict=True):
        assert ours[:2] == theirs[:2]
        # gradients are added in another order: float32 rounding, grown over 6 updates
        assert ours[2] == pytest.approx(theirs[2], rel=2e-5)


@pytest.mark.slow
def test_cut_over_two_processes_a_run_has_the_losses_of_one_and_is_taken_over_by_any_number(
    python, child_environment, tiny_config, tmp_path
):
    """T04: from scratch, stopped by a signal, and from one process to two and back."""

    def config(name, shard="none"):
        return tiny_config(**FIELDS, execution__shard=shard, out=str(tmp_path / name))

    alone = execute(config("alone"))
    with pytest.raises(BrokenError):
        execute(config("one then two"), observe=break_at(4))
    jobs = [
        (config("weights", "weights"), 4),
        (config("optimizer", "optimizer"), None),
        (config("one then two", "weights"), None),
    ]
    run_on_two(python, child_environment, jobs)
    stopped = tmp_path / "weights/checkpoints/step-00000004"
    assert json.loads((tmp_path / "weights/summary.json").read_text())["status"] == "stopped"
    names = {path.name for path in stopped.iterdir()}
    slices = {f"optimizer-0000{i}-of-00002.safetensors" for i in (1, 2)}
    plain = {"model.safetensors", "average.safetensors", "state.json", "manifest.json"}
    assert names == slices | plain
    halves = [load_file(stopped / name) for name in sorted(slices)]
    wq = "momentum.layers.0.attention.wq.weight"
    assert [half[wq].shape for half in halves] == [(16, 32), (16, 32)]
    execute(config("weights"))  # on one process now
    for name in ("weights", "optimizer", "one then two"):
        assert_same_losses(tmp_path / name, alone)
        assert (tmp_path / name / "samples.jsonl").read_text().count("\n") == 2
    last = tmp_path / "optimizer/checkpoints/step-00000006"
    owned = [set(load_file(last / name)) for name in sorted(slices)]
    assert not owned[0] & owned[1]
    whole = set(load_file(alone / "checkpoints/step-00000006/optimizer.safetensors"))
    assert owned[0] | owned[1] == whole

    (last / sorted(slices)[1]).unlink()
    with pytest.raises(CheckpointError):
        load_newest(tmp_path / "optimizer/checkpoints", lambda _: None)


def test_alone_every_way_to_cut_is_none(tiny_config, tmp_path):
    folders = [
        execute(tiny_config(**FIELDS, execution__shard=shard, out=str(tmp_path / shard)))
        for shard in ("none", "weights")
    ]
    files = [
        list_checkpoints(f / "checkpoints")[-1].folder / "optimizer.safetensors" for f in folders
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
