"""`ladderlm verify`: good files are named, a damaged one stops it."""

import pytest


def test_good_data_and_runs_are_said_to_be_good(ladderlm, tiny_data, shared_run):
    said = ladderlm("verify", tiny_data)
    assert said.code == 0
    assert "split train: " in said.out
    assert "split val: " in said.out
    said = ladderlm("verify", shared_run)
    assert said.code == 0
    assert [line.split("/")[-1] for line in said.out.splitlines()] == [
        "step-00000004: good",
        "step-00000008: good",
    ]


@pytest.mark.parametrize("name", ["train-00000.bin", "val-00000.bin", "val-documents.npy"])
def test_damaged_data_is_named(name, ladderlm, data, damage):
    damage(data / name)
    said = ladderlm("verify", data)
    assert said.code == 2
    assert name in said.err
    assert "fix: " in said.err


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer/tokenizer.json"])
def test_edited_texts_of_data_are_found(name, ladderlm, data):
    text = (data / name).read_text()
    (data / name).write_text(text.replace("1", "2", 1))  # of the version
    said = ladderlm("verify", data)
    assert said.code == 2
    assert name.split("/")[-1] in said.err


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damaged_checkpoints_are_named(name, ladderlm, run, damage):
    """C10."""
    damage(run / "checkpoints/step-00000004" / name)
    said = ladderlm("verify", run)
    assert said.code == 2
    assert f"step-00000004/{name} is damaged" in said.err


def test_a_missing_file_is_named(ladderlm, run, data):
    (run / "checkpoints/step-00000008/optimizer.safetensors").unlink()
    assert "optimizer.safetensors is missing" in ladderlm("verify", run).err
    (data / "train-00000.bin").unlink()
    said = ladderlm("verify", data)
    assert said.code == 2
    assert "train-00000.bin" in said.err


def test_other_folders_are_refused_with_a_way_on(ladderlm, run, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        said = ladderlm("verify", place)
        assert said.code == 2
        assert f"{place} is neither prepared data nor a run" in said.err
    assert ladderlm("report", run, "--out", tmp_path / "page").code == 0
    said = ladderlm("verify", tmp_path / "page")
    assert said.code == 2
    assert f"use `ladderlm report verify {tmp_path}/page`" in said.err


def test_a_run_without_a_checkpoint_says_so(ladderlm, run):
    for folder in (run / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
    said = ladderlm("verify", run)
    assert said.code == 0
    assert said.out == f"{run}: no checkpoint yet\n"
