"""`ladderlm inspect`: rows of data and of runs."""

import re

import pytest


def test_rows_of_data_are_described(ladderlm, tiny_data):
    said = ladderlm("inspect", tiny_data, "--rows", "3", "--seq-len", "32")
    assert said.code == 0
    assert "split train: 60 documents" in said.out
    assert re.findall(r"^row (\d+) of batch 0$", said.out, re.MULTILINE) == ["0", "1", "2"]
    assert said.out.count("targets [") >= 3


def test_packing_split_and_batch_can_be_chosen(ladderlm, tiny_data):
    said = ladderlm("inspect", tiny_data, "--packing=padded", "--split=val", "--batch=2")
    assert "split val: 12 documents" in said.out
    assert "packing padded" in said.out
    assert re.findall(r"row (\d+) of batch 2", said.out) == ["4", "5"]


def test_a_run_is_shown_its_own_batches(ladderlm, shared_run):
    said = ladderlm("inspect", shared_run, "--batch", "3", "--rows", "1")
    assert said.code == 0
    assert "rows of 32 an epoch" in said.out
    assert "row 24 of batch 3" in said.out  # 8 rows of 32 make 256 tokens


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batch", "-1"], "--batch -1"),
        (["--rows", "0"], "--rows 0"),
        (["--rows", "-2"], "--rows -2"),
        (["--seq-len", "1"], "data.seq_len = 1"),
        (["--packing", "best"], "concat or padded"),
        (["--split", "vall"], "it has train, val"),
        (["--row", "3"], "--rows"),
    ],
)
def test_wrong_options_are_refused(words, says, ladderlm, tiny_data):
    said = ladderlm("inspect", tiny_data, *words)
    assert said.code == 2
    assert says in said.err
    assert said.out == ""


def test_folders_without_good_data_are_named(ladderlm, tmp_path, data, damage):
    said = ladderlm("inspect", tmp_path / "nowhere")
    assert said.code == 2
    assert "holds no prepared data" in said.err
    damage(data / "train-00000.bin")
    said = ladderlm("inspect", data)
    assert said.code == 2
    assert "train-00000.bin is damaged" in said.err
    (tmp_path / "config.json").write_text("{")
    said = ladderlm("inspect", tmp_path)
    assert said.code == 2
    assert "config.json:1:2: not valid JSON" in said.err
