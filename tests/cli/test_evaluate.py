"""`ladderlm eval`: numbers, files, and what is refused."""

import json
import math

import numpy as np
import pytest

from ladderlm.run.directory import RunDirectory


def test_the_numbers_are_those_of_the_end_of_the_run(ladderlm, run):
    said = ladderlm("eval", run, "--json")
    assert said.code == 0
    found, stated = said.json, RunDirectory(run).summary()["evals"]["val"]["last"]
    for name in ("bits_per_byte", "loss", "n_documents", "n_bytes", "n_tokens", "subsets"):
        assert found[name] == stated[name], name
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    low, high = found["bits_per_byte_95"]
    assert low < found["bits_per_byte"] < high


def test_the_table_shows_what_the_json_holds(ladderlm, run):
    found, text = ladderlm("eval", run, "--json").json, ladderlm("eval", run).out
    assert f"{found['bits_per_byte']:.4f} bits/byte" in text
    assert "12 documents (all there are)" in text
    for name, row in found["subsets"].items():
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert f"{row['bits_per_byte']:.4f}" in line
    assert "the first of 12" in ladderlm("eval", run, "--max-documents", "5").out


def test_documents_are_stored_one_by_one_and_add_up(ladderlm, run):
    found = ladderlm("eval", run, "--max-documents=5", "--context", "16", "--stride", "8", "--json")
    assert found.json["policy"] == {"context": 16, "stride": 8, "n_documents": 5}
    files = sorted((run / "evals").glob("*ctx16-str8-first5*"))
    assert [file.suffix for file in files] == [".json", ".npz"]
    assert json.loads(files[0].read_text())["step"] == 8
    with np.load(files[1], allow_pickle=False) as arrays:
        assert {
            len(arrays[name]) for name in ("document_ids", "subset_ids", "n_bytes", "n_tokens")
        } == {5}


def test_an_older_checkpoint_and_another_split_can_be_named(ladderlm, run):
    last, older = (ladderlm("eval", run, *w, "--json").json for w in ([], ["--step", "4"]))
    assert (last["step"], older["step"]) == (8, 4)
    assert older["bits_per_byte"] != last["bits_per_byte"]
    train = ladderlm("eval", run, "--split", "train", "--max-documents", "3", "--json").json
    assert (train["split"], train["n_documents"], train["split_documents"]) == ("train", 3, 60)


def test_data_elsewhere_gives_the_same_numbers(ladderlm, run, data):
    first, second = (ladderlm("eval", run, *w, "--json").json for w in ([], ["--data", data]))
    assert first == second


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-documents", "0"], "--max-documents 0"),
        (["--max-documents", "-3"], "--max-documents -3"),
        (["--context", "0"], "context = 0"),
        (["--context", "-1"], "context = -1"),
        (["--context", "100000"], "--context 100000 is longer than the model's 64"),
        (["--stride", "0"], "stride = 0"),
        (["--stride", "33"], "between 1 and the context 32"),
        (["--split", "vall"], "it has train, val"),
        (["--step", "7"], "it has [4, 8]"),
        (["--data", "nowhere"], "ladderlm prepare"),
    ],
)
def test_what_cannot_be_scored_is_refused_not_replaced(words, says, ladderlm, run):
    said = ladderlm("eval", run, *words)
    assert said.code == 2
    assert says in said.err
    assert said.out == ""


@pytest.mark.parametrize("words", [["--stpe", "4"], ["--context", "wide"], ["second-run"]])
def test_slips_in_options_are_named(words, ladderlm, run):
    said = ladderlm("eval", run, *words)
    assert said.code == 2
    assert words[0] in said.err


def test_a_folder_that_is_no_run_is_named(ladderlm, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        said = ladderlm("eval", place)
        assert said.code == 2
        assert f"{place} is not a run folder" in said.err


def test_data_of_another_tokenizer_is_refused(ladderlm, run, corpus, tmp_path):
    """T17: the same size, other ids."""
    tokenizer, data = tmp_path / "tokenizer", tmp_path / "other"
    train = ladderlm("tokenizer", "train", corpus, "--vocab-size", "320", "--out", tokenizer)
    assert train.code == 0
    assert ladderlm("prepare", corpus, "--tokenizer", tokenizer, "--out", data).code == 0
    said = ladderlm("eval", run, "--data", data)
    assert said.code == 2
    assert "another tokenizer" in said.err
    assert f"--tokenizer {run}/tokenizer" in said.err


def test_damaged_data_and_checkpoints_are_named(ladderlm, run, data, damage):
    """C10: the damaged file stands in the message."""
    damage(data / "val-00000.bin")
    said = ladderlm("eval", run, "--data", data)
    assert (said.code, "val-00000.bin is damaged" in said.err) == (2, True)
    damage(run / "checkpoints/step-00000004/model.safetensors")
    said = ladderlm("eval", run, "--step", "4")
    assert said.code == 2
    assert "step-00000004/model.safetensors is damaged" in said.err


def test_names_of_subsets_cannot_command_a_terminal(ladderlm, run, tiny_data, tmp_path):
    """P01: a corpus whose subset is an escape sequence."""
    record = {"text": "the loss of a batch", "meta": {"pile_set_name": "\x1b[31mred"}}
    (tmp_path / "bad.jsonl").write_text(json.dumps(record) + "\n")
    words = ["--tokenizer", tiny_data / "tokenizer", "--out", tmp_path / "data", "--split", "val"]
    prepared = ladderlm("prepare", tmp_path / "bad.jsonl", *words)
    scored = ladderlm("eval", run, "--data", tmp_path / "data")
    looked = ladderlm("inspect", tmp_path / "data", "--split", "val", "--seq-len", "16")
    for said in (prepared, scored, looked):
        assert said.code == 0, said.err
        assert "\\x1b[31mred" in said.out
        assert "\x1b" not in said.out
