"""State cut over two processes: the losses of one, and checkpoints that any number takes over."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ladderlm.checkpoint.layout import list_checkpoints, newest_good
from ladderlm.checkpoint.load import load_state
from ladderlm.errors import CheckpointError
from ladderlm.run.execute import execute
from reference.runs import BrokenError, break_at, lines_of
from reference.two_processes import run_on_two

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
        newest_good(tmp_path / "optimizer/checkpoints", load_state)


def test_alone_every_way_to_cut_is_none(tiny_config, tmp_path):
    folders = [
        execute(tiny_config(**FIELDS, execution__shard=shard, out=str(tmp_path / shard)))
        for shard in ("none", "weights")
    ]
    files = [
        list_checkpoints(f / "checkpoints")[-1].folder / "optimizer.safetensors" for f in folders
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
