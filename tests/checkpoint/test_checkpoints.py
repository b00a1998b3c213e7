"""Checkpoints: written whole, read strictly, never trusted unverified, never all deleted."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ladderlm.checkpoint import layout
from ladderlm.checkpoint import save as save_module
from ladderlm.checkpoint.layout import (
    list_checkpoints,
    newest_good,
    remove_unfinished,
    rotate,
    step_folder,
    verify_checkpoint,
)
from ladderlm.checkpoint.load import load_optimizer, load_state, load_weights
from ladderlm.checkpoint.save import optimizer_tensors, save_checkpoint
from ladderlm.errors import CheckpointError
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.training.compute import Compute
from ladderlm.training.state import TrainState
from reference.checks import ragged_batch, update
from reference.hand_made import make_model


def trained_state(n_updates=2, run_id="abc"):
    model = make_model(n_layers=1)
    state = TrainState(model, build_optimizer(model, OptimConfig()), Compute(model), run_id)
    for _ in range(n_updates):
        update(model, ragged_batch(), state.optimizer)
        state.step += 1
        state.n_tokens += 46
    return state


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture(scope="module")
def three_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    state = trained_state(1)
    for step in (1, 2, 3):
        state.step = step
        state.save(folder, keep=9)
    return folder


@pytest.fixture
def three(three_once, folder):
    """Checkpoints of steps 1, 2 and 3, all of the same weights."""
    return Path(shutil.copytree(three_once, folder))


def flip(path, place=-5):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def newest(folder):
    warnings = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout._log, "warning", lambda text, *args: warnings.append(text % args))
        saved = newest_good(folder, load_state)
    return (saved.checkpoint.step if saved else None), warnings


def load_newest(folder):
    """Load the newest checkpoint, which is not damaged."""
    return load_state(list_checkpoints(folder)[-1])


def test_a_state_comes_back_bit_for_bit(folder):
    state = trained_state()
    state.best, state.seconds, state.restarts = {"step": 1, "loss": 3.25}, 1.5, 2
    state.save(folder, keep=1)
    other = trained_state(0)
    for weight in other.model.parameters():
        torch.nn.init.normal_(weight)
    other.restore(load_newest(folder))
    assert (other.step, other.n_tokens, other.best) == (2, 92, {"step": 1, "loss": 3.25})
    assert (other.seconds, other.restarts) == (1.5, 3)
    for (name, a), b in zip(state.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b), name
        ours, theirs = state.optimizer.state[a], other.optimizer.state[b]
        assert ours.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for kind in ours:
            assert torch.equal(ours[kind], theirs[kind])
            assert ours[kind].dtype == theirs[kind].dtype
    for one in (state, other):  # and goes on to the same bits
        update(one.model, ragged_batch(), one.optimizer)
    for a, b in zip(state.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_before_the_first_update_comes_back(folder):
    state = trained_state(0)
    state.save(folder, keep=1)
    other = trained_state(0)
    other.restore(load_newest(folder))
    assert other.step == 0


def test_equal_states_give_equal_files(folder, tmp_path):
    """T15: nothing but `timing` may differ."""
    trained_state().save(folder, 1)
    trained_state().save(tmp_path / "other", 1)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"):
        one, two = (step_folder(f, 2) / name for f in (folder, tmp_path / "other"))
        assert one.read_bytes() == two.read_bytes()


def test_the_safetensors_library_reads_our_files(folder):
    state = trained_state()
    state.save(folder, 1)
    weights = safetensors.torch.load_file(step_folder(folder, 2) / "model.safetensors")
    own = dict(state.model.named_parameters())
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    optimizer = safetensors.torch.load_file(step_folder(folder, 2) / "optimizer.safetensors")
    ours = optimizer_tensors(state.optimizer)
    assert optimizer.keys() == ours.keys()
    assert all(torch.equal(optimizer[name], ours[name]) for name in ours)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4)])
def test_every_dtype_and_shape_is_written_as_the_format_says(dtype, shape, tmp_path):
    path = tmp_path / "own.safetensors"
    tensor = (10 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    transposed = torch.arange(6.0).view(2, 3).t()  # not contiguous
    with open(path, "wb") as stream:
        save_module.write_safetensors(stream, {"b": tensor, "a": transposed})
    found = safetensors.torch.load_file(path)
    assert torch.equal(found["b"], tensor)
    assert found["b"].dtype == dtype
    assert torch.equal(found["a"], transposed)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0


def test_no_file_of_a_checkpoint_is_a_pickle(three):
    """I01: nothing that could run code when it is read."""
    for path in three.rglob("*"):
        if path.is_file():
            assert path.suffix in (".safetensors", ".json")
            assert not path.read_bytes().startswith((b"PK", b"\x80"))


DAMAGES = {
    "a flipped bit of the weights": lambda f: flip(f / "model.safetensors"),
    "a flipped bit of the optimizer": lambda f: flip(f / "optimizer.safetensors"),
    "a flipped bit of the state": lambda f: flip(f / "state.json", 20),
    "a cut file": lambda f: os.truncate(f / "model.safetensors", 1000),
    "an emptied file": lambda f: os.truncate(f / "optimizer.safetensors", 0),
    "a longer file": lambda f: os.truncate(f / "model.safetensors", 10**6),
    "a block of zeros": lambda f: (f / "model.safetensors").write_bytes(
        bytes((f / "model.safetensors").stat().st_size)
    ),
    "a deleted file": lambda f: (f / "model.safetensors").unlink(),
    "a deleted optimizer": lambda f: (f / "optimizer.safetensors").unlink(),
    "a deleted state": lambda f: (f / "state.json").unlink(),
    "a broken manifest": lambda f: os.truncate(f / "manifest.json", 40),
    "an empty manifest": lambda f: (f / "manifest.json").write_text("{}"),
    "a manifest of a list": lambda f: (f / "manifest.json").write_text("[1]"),
    "a link in place of a file": lambda f: (
        shutil.move(f / "state.json", f / "other.json"),
        (f / "state.json").symlink_to("other.json"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(damage, three):
    """C10: refused by name, the one before it is taken."""
    DAMAGES[damage](step_folder(three, 3))
    step, warnings = newest(three)
    assert step == 2
    assert len(warnings) == 1
    assert "step-00000003" in warnings[0]


def test_all_checkpoints_damaged_is_an_error_and_none_is_not(three, tmp_path):
    """C10: never a silent fresh start over a run that was there."""
    for step in (1, 2, 3):
        flip(step_folder(three, step) / "model.safetensors")
    with pytest.raises(CheckpointError, match="all 3 checkpoints"):
        newest(three)
    assert newest(tmp_path / "nothing") == (None, [])


@pytest.mark.parametrize("seed", range(40))
def test_any_flipped_bit_anywhere_is_found(seed, three):
    """C10: forty random bits over all files."""
    rng = np.random.default_rng(seed)
    path = sorted(step_folder(three, 3).iterdir())[rng.integers(4)]
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(data))
    before = json.loads((step_folder(three, 2) / "manifest.json").read_text())
    step, warnings = newest(three)
    if step == 3:  # a bit of the manifest that says nothing about content
        manifest = json.loads(path.read_text())
        assert path.name == "manifest.json"
        files = json.loads((step_folder(three, 3) / "manifest.json").read_text())["files"]
        assert files.keys() == before["files"].keys()
        assert manifest["format_version"] == 1
    else:
        assert step == 2
        assert warnings


def test_a_checkpoint_of_another_format_is_refused_with_both_versions(three):
    """C23: written by a later ladderlm."""
    path = step_folder(three, 3) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 7}))
    with pytest.raises(CheckpointError, match=r"format 7, this ladderlm reads 1"):
        verify_checkpoint(list_checkpoints(three)[-1])


@pytest.mark.parametrize("name", ["../../outside", "/etc/hostname", "sub/file"])
def test_a_manifest_cannot_point_out_of_its_folder(name, three):
    """I06: only plain names."""
    path = step_folder(three, 3) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = manifest["files"]["state.json"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="must list plain files"):
        verify_checkpoint(list_checkpoints(three)[-1])


def test_an_unfinished_save_is_removed_and_named(three):
    """C11: killed before the manifest; temporary files lie about."""
    (step_folder(three, 3) / "manifest.json").unlink()
    (step_folder(three, 3) / ".tmp-77-optimizer.safetensors").write_bytes(b"half")
    (three / "step-00000009").mkdir()
    assert remove_unfinished(three) == ["step-00000003", "step-00000009"]
    assert [c.step for c in list_checkpoints(three)] == [1, 2]
    assert newest(three) == (2, [])
    assert remove_unfinished(three / "nowhere") == []


def test_foreign_folders_and_links_are_ignored_and_never_followed(three, tmp_path):
    """C11: a link may lead out of the run, or in a loop."""
    outside = tmp_path / "outside"
    shutil.copytree(step_folder(three, 3), outside)
    (three / "step-00000004").symlink_to(outside)
    (three / "step-00000005").symlink_to("step-00000005")
    (three / "latest").symlink_to("nowhere")
    shutil.copytree(step_folder(three, 3), three / "step-00000003-copy")
    assert [c.step for c in list_checkpoints(three)] == [1, 2, 3]
    remove_unfinished(three)
    assert (outside / "manifest.json").is_file()
    assert (three / "step-00000003-copy").is_dir()
    assert newest(three) == (3, [])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_rotation_keeps_the_newest_and_the_best(keep, folder):
    """C13: the best is pinned, however old."""
    state = trained_state(1)
    for step in range(1, 7):
        state.step = step
        state.best = {"step": 2, "loss": 1.0} if step >= 2 else {"step": 1, "loss": 2.0}
        state.save(folder, keep)
        steps = {c.step for c in list_checkpoints(folder)}
        wanted = set(range(max(step - keep + 1, 1), step + 1)) | {state.best["step"]}
        assert steps == wanted


def test_a_killed_rotation_leaves_no_half_checkpoint(three):
    """C13: the manifest goes first, so that a half deleted folder counts no more."""
    order = []
    unlink = os.unlink

    def spy(path, *args, **kwargs):
        order.append(os.path.basename(path))
        return unlink(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", spy)
        rotate(three, 1, {2})
    assert order[0] == "manifest.json"
    assert [c.step for c in list_checkpoints(three)] == [2, 3]


@pytest.mark.parametrize("failing", range(4))
def test_a_save_that_dies_at_any_file_leaves_the_older_ones_good(failing, three, monkeypatch):
    """C02: no manifest, no checkpoint; the next start clears the rest."""
    count, replace = [], os.replace

    def dying(*args):
        count.append(1)
        if len(count) == failing + 1:
            raise KeyboardInterrupt
        return replace(*args)

    state = trained_state(1)
    state.step = 4
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            state.save(three, 1)
    assert [c.step for c in list_checkpoints(three)] == [1, 2, 3]
    assert remove_unfinished(three) == ["step-00000004"]
    assert newest(three) == (3, [])


def edited(state, edit):
    """Give a saved optimizer after an edit, and load it into a fresh one."""
    tensors = dict(optimizer_tensors(state.optimizer))
    edit(tensors)
    load_optimizer(trained_state(0).optimizer, tensors, "the checkpoint")


EDITS = {
    "a missing moment": lambda t: t.pop("exp_avg.norm.weight"),
    "a missing count": lambda t: t.pop("step.norm.weight"),
    "a cold start": lambda t: t.clear(),
    "an unknown name": lambda t: t.update({"exp_avg.other": torch.zeros(3)}),
    "another dtype": lambda t: t.update(
        {"exp_avg.norm.weight": t["exp_avg.norm.weight"].to(torch.bfloat16)}
    ),
    "another shape": lambda t: t.update({"exp_avg_sq.norm.weight": torch.zeros(17)}),
    "a count of another shape": lambda t: t.update({"step.norm.weight": torch.zeros(16)}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_optimizer_state_that_does_not_fit_is_refused(edit):
    """C14: missing, cold, of another dtype or shape; the source is named."""
    with pytest.raises(CheckpointError, match="the checkpoint"):
        edited(trained_state(1), EDITS[edit])


def test_a_reordered_optimizer_state_finds_its_parameters_by_name():
    """C14: order means nothing."""
    state, other = trained_state(1), trained_state(0)
    tensors = dict(reversed(list(optimizer_tensors(state.optimizer).items())))
    load_optimizer(other.optimizer, tensors, "own")
    found = optimizer_tensors(other.optimizer)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


WEIGHT_EDITS = {
    "missing": lambda w: w.pop("norm.weight"),
    "unknown": lambda w: w.update({"rope.freqs": torch.zeros(2)}),
    "norm.weight": lambda w: w.update({"norm.weight": torch.zeros(15)}),
    "output.weight": lambda w: w.update({"output.weight": w["output.weight"].half()}),
}


@pytest.mark.parametrize("word", WEIGHT_EDITS)
def test_weights_that_do_not_fit_are_refused_by_name(word):
    model = make_model()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    WEIGHT_EDITS[word](weights)
    with pytest.raises(CheckpointError, match=word):
        load_weights(model, weights, "own")


def test_a_checkpoint_of_another_run_is_refused(folder):
    trained_state(1, run_id="abc").save(folder, 1)
    with pytest.raises(CheckpointError, match="belongs to run abc"):
        trained_state(0, run_id="def").restore(load_newest(folder))


def test_a_verified_file_that_is_no_safetensors_is_refused(folder):
    trained_state(1).save(folder, 1)
    target = step_folder(folder, 1)
    (target / "model.safetensors").write_bytes(b"\xff" * 100)
    manifest = json.loads((target / "manifest.json").read_text())
    digest = hashlib.sha256(b"\xff" * 100).hexdigest()
    manifest["files"]["model.safetensors"] = {"n_bytes": 100, "sha256": digest}
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="safetensors"):
        load_state(list_checkpoints(folder)[0])


def test_a_full_disk_is_seen_before_anything_is_written(three, monkeypatch):
    """C08: free space is asked for first; what is there stays."""
    status = os.statvfs(three)
    small = os.statvfs_result((*status[:4], 0, *status[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: small)
    state = trained_state(1)
    state.step = 4
    with pytest.raises(Exception, match="are free"):
        state.save(three, 1)
    assert [c.step for c in list_checkpoints(three)] == [1, 2, 3]
    assert not step_folder(three, 4).exists()


def test_saving_a_step_again_replaces_it(three):
    state = trained_state(1)
    state.step, state.n_tokens = 3, 777
    save_checkpoint(
        three,
        dict(state.model.named_parameters()),
        optimizer_tensors(state.optimizer),
        {"step": 3, "n_tokens": 777},
    )
    assert load_newest(three).state["n_tokens"] == 777
