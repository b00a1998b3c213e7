"""`ladderlm prepare`: text to shards; shards themselves are tested beside their module."""

import io
import json
import sys

import pytest

from builders import make_records, write_jsonl


@pytest.fixture
def prepare(ladderlm, tiny_tokenizer_folder, tmp_path):
    """Prepare sources into one folder."""

    def call(*words):
        own = ("--tokenizer", tiny_tokenizer_folder, "--out", tmp_path / "data")
        return ladderlm("prepare", *words, *own)

    return call


def test_a_folder_with_both_splits_is_prepared_at_once(prepare, corpus, tmp_path):
    said = prepare(corpus)
    assert said.code == 0, said.err
    assert "train: 60 documents" in said.out
    assert "val: 12 documents" in said.out
    assert "train_val_exact: 0 documents" in said.out
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    assert manifest["fingerprint"][:12] in said.out
    assert prepare(corpus, "--json").json == manifest


def test_the_same_command_again_changes_nothing(prepare, corpus, tmp_path):
    first = prepare(corpus, "--json").json
    assert prepare(corpus, "--json", "--workers", "1").json == first


def test_standard_input_is_a_source(prepare, monkeypatch, tmp_path):
    text = "".join(json.dumps(record) + "\n" for record in make_records(7, seed=9))
    raw = io.BufferedReader(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
    found = prepare("-", "--split", "extra", "--json").json
    assert found["splits"]["extra"]["n_documents"] == 7


def test_the_first_documents_are_taken_if_asked(prepare, corpus):
    splits = prepare(corpus, "--max-documents", "5", "--json").json["splits"]
    assert [splits[name]["n_documents"] for name in ("train", "val")] == [5, 5]


def test_bad_records_stop_or_are_counted(prepare, tmp_path):
    """D06: the file, the line, the column and the mend."""
    file = write_jsonl(tmp_path / "a.jsonl", make_records(3, seed=8))
    with open(file, "a") as stream:
        stream.write('nope\n{"text": 3}\n{"text": ""}\n')
    said = prepare(file)
    assert said.code == 2
    assert f"{file}:4:1: not valid JSON" in said.err
    assert "--skip-bad" in said.err
    assert not (tmp_path / "data/manifest.json").exists()
    said = prepare(file, "--skip-bad")
    assert said.code == 0
    assert "left out: 1 x not JSON" in said.out
    assert "left out: 1 x no text" in said.out
    assert "left out: 1 x empty text" in said.out


def test_overlap_of_train_and_validation_is_refused_unless_allowed(prepare, tmp_path):
    """D13."""
    records = make_records(9, seed=8)
    write_jsonl(tmp_path / "c/train.jsonl", records)
    write_jsonl(tmp_path / "c/val.jsonl", records[:2])
    said = prepare(tmp_path / "c")
    assert said.code == 2
    assert "2 documents of 'val' are in 'train' too" in said.err
    assert "train_val_exact: 2 documents" in prepare(tmp_path / "c", "--allow-overlap").out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no SOURCE is named"),
        (["nowhere.jsonl"], "source nowhere.jsonl does not exist"),
        (["CORPUS", "--max-documents", "0"], "at least 1"),
        (["CORPUS", "--max-documents", "-1"], "at least 1"),
        (["CORPUS", "--workers", "0"], "at least 1"),
        (["CORPUS", "--split", "a/b"], "letters, digits"),
        (["CORPUS", "--split", "../x"], "letters, digits"),
        (["CORPUS", "--text-key", "txt"], "'txt' is missing"),
        (["CORPUS", "--worker", "1"], "--workers"),
        (["CORPUS", "--max-documents", "few"], "--max-documents"),
    ],
)
def test_what_cannot_be_prepared_is_refused(words, says, prepare, corpus, tmp_path):
    said = prepare(*(corpus if word == "CORPUS" else word for word in words))
    assert said.code == 2
    assert says in said.err
    assert not (tmp_path / "data/manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "no documents"),
        ("a.jsonl", b"<!doctype html><p>gone", "HTML"),
        ("a.jsonl.zst", b"", "is empty"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x04", "a.jsonl.zst: cannot be read to its end"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00", "a.jsonl.gz: cannot be read to its end"),
        ("a.txt", b"ab\xff", "byte 2 is not UTF-8"),
    ],
)
def test_files_that_are_not_what_they_seem_are_named(name, content, says, prepare, tmp_path):
    """D05: one of each kind; the others are tested beside the reader."""
    (tmp_path / name).write_bytes(content)
    said = prepare(tmp_path / name)
    assert said.code == 2
    assert says in said.err


def test_a_tokenizer_that_is_none_is_named(ladderlm, corpus, tmp_path):
    said = ladderlm("prepare", corpus, "--tokenizer", tmp_path, "--out", tmp_path / "data")
    assert said.code == 2
    assert f"{tmp_path} contains no tokenizer.json" in said.err
    assert "ladderlm tokenizer train" in said.err


def test_parts_are_merged_to_the_manifest_of_one_prepare(
    ladderlm, prepare, corpus, tiny_tokenizer_folder, tmp_path
):
    whole = prepare(corpus, "--json").json
    parts = [tmp_path / "p1", tmp_path / "p2"]
    for number, folder in enumerate(parts, 1):
        words = (corpus, "--tokenizer", tiny_tokenizer_folder, "--out", folder)
        said = ladderlm("prepare", *words, "--part", f"{number}/2")
        assert said.code == 0, said.err
        assert "--merge" in said.out
    merged = ladderlm("prepare", "--merge", *parts, "--out", tmp_path / "merged", "--json")
    assert merged.json == whole
    missing = ladderlm("prepare", "--merge", parts[1], "--out", tmp_path / "none")
    assert missing.code == 2
    assert "part 1 of 2 is in none" in missing.err


def test_a_part_that_fails_as_a_job_says_why(ladderlm, tiny_tokenizer_folder, tmp_path):
    """D06: the job's own message, with file and line."""
    (tmp_path / "bad.jsonl").write_text("{\n")
    words = (
        tmp_path / "bad.jsonl",
        "--tokenizer",
        tiny_tokenizer_folder,
        "--out",
        tmp_path / "out",
    )
    said = ladderlm("prepare", *words, "--executor", "local", "--workers", 1)
    assert said.code == 1
    assert "part 1-of-1 failed with exit code 2" in said.err
    assert "bad.jsonl:1" in said.err
    assert not (tmp_path / "out").exists()


def test_an_estimate_is_printed_before_the_work_and_alone_on_request(prepare, corpus, tmp_path):
    expected = prepare(corpus, "--estimate", "--json").json
    assert {"n_documents", "text_bytes", "n_tokens", "data_bytes", "disk_bytes"} < set(expected)
    assert expected["timing"]["seconds"] >= 0
    assert "tokens" in prepare(corpus, "--estimate").out
    assert not (tmp_path / "data").exists()
    assert "expected: about" in prepare(corpus).err


def test_sources_limits_and_duplicates_are_printed(prepare, tmp_path):
    """D02: documents, bytes and hash of each source, whether its hash was known or not."""
    records = make_records(9, seed=8)
    file = write_jsonl(tmp_path / "a.jsonl", [*records, records[0]])
    said = prepare(file, "--dedup", "exact", "--near-duplicates", "--max-bytes", "1MB").out
    assert "from a.jsonl: 10 documents" in said
    assert f"{file.stat().st_size:,} bytes, SHA-256 " in said
    assert "left out: 1 x exact duplicate" in said
    assert "near duplicates of an earlier document: " in said
    for words in (("--part", "0/2"), ("--part", "x"), ("--max-tokens", "0"), ("--dedup", "fuzzy")):
        assert prepare(file, *words).code == 2


@pytest.mark.parametrize("out", ["plain", "plain/data"])
def test_a_file_in_the_place_of_the_folder_is_named_and_kept(
    out, ladderlm, tiny_tokenizer_folder, tmp_path
):
    source, plain = tmp_path / "a.jsonl", tmp_path / "plain"
    source.write_text('{"text": "a"}\n')
    plain.write_text("mine")
    own = ("--tokenizer", tiny_tokenizer_folder, "--out", tmp_path / out)
    said = ladderlm("prepare", source, *own)
    assert said.code != 0
    assert f"{plain} must be a folder, but is a file" in said.err
    assert plain.read_text() == "mine"


def test_text_under_another_name_than_txt_says_what_is_read_as_text(prepare, tmp_path):
    (tmp_path / "notes.md").write_text("# Notes\n")
    said = prepare(tmp_path / "notes.md")
    assert said.code == 2
    assert "as plain text only names in .txt are read" in said.err
