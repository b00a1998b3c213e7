"""Last, best, average or a step: one answer for every command."""

import logging

import pytest
import torch

from ladderlm.checkpoint.choose import choose
from ladderlm.checkpoint.save import save_checkpoint
from ladderlm.errors import CheckpointError
from ladderlm.files import sha256_file


@pytest.fixture
def run(tmp_path):
    """Checkpoints of steps 2, 4 and 6; the last two keep an average."""
    for step in (2, 4, 6):
        weights, average = ({"w": torch.full((3,), n)} for n in (float(step), step / 2))
        kept = average if step > 2 else None
        save_checkpoint(tmp_path / "checkpoints", weights, {}, {"step": step}, average=kept)
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("wanted", "step", "name"),
    [
        (None, 6, "model"),
        ("last", 6, "model"),
        ("best", 4, "model"),
        ("average", 6, "average"),
        ("2", 2, "model"),
        (2, 2, "model"),
        ("step-00000004", 4, "model"),
    ],
)
def test_the_weights_that_are_meant_are_named_with_their_hash(run, wanted, step, name):
    found = choose(run, wanted, best_step=4)
    assert found.step == step
    assert found.weights_file == run / f"step-{step:08d}" / f"{name}.safetensors"
    assert found.weights_hash == sha256_file(found.weights_file)


@pytest.mark.parametrize("wanted", ["5", 5, "first", "step-", "-1", "", "best"])
def test_what_is_not_there_is_refused_with_what_there_is(run, wanted):
    with pytest.raises(CheckpointError, match=r"has no checkpoint") as caught:
        choose(run, wanted)
    assert "[2, 4, 6]" in str(caught.value)


def test_only_the_default_passes_over_a_damaged_checkpoint_and_says_so(run, caplog):
    file = run / "step-00000006/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with caplog.at_level(logging.WARNING):
        assert choose(run).step == 4
    assert "skipping a damaged checkpoint" in caplog.text
    for wanted in ("last", "average", "6"):
        with pytest.raises(CheckpointError, match="is damaged"):
            choose(run, wanted)
    for step in (2, 4):
        (run / f"step-{step:08d}/state.json").unlink()
    with pytest.raises(CheckpointError, match="all 3 checkpoints"):
        choose(run)


def test_a_run_without_average_or_checkpoint_is_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        choose(tmp_path / "none/checkpoints")
    for step in (4, 6):
        (run / f"step-{step:08d}/manifest.json").unlink()
    with pytest.raises(CheckpointError, match="holds no average"):
        choose(run, "average")
