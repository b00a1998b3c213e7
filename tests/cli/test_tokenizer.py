"""`ladderlm tokenizer`: train and show."""

import json

import pytest

from builders import make_records, write_jsonl


def learn(ladderlm, *sources, out, size=300, words=()):
    return ladderlm("tokenizer", "train", *sources, "--vocab-size", size, "--out", out, *words)


def test_a_tokenizer_is_trained_proven_and_shown(ladderlm, corpus, tmp_path):
    out = tmp_path / "tok"
    said = learn(ladderlm, corpus, out=out, words=["--json"])
    assert said.code == 0
    report = said.json
    assert report["trained_on"]["n_documents"] == 54  # val is left out, and every tenth held out
    assert report["compression"]["n_documents"] == 6
    assert report["compression"]["subsets"].keys() == {"Code", "Prose"}
    record = json.loads((out / "ladderlm.json").read_text())
    assert record["fingerprint"] == report["fingerprint"]
    shown = ladderlm("tokenizer", "show", out)
    assert report["fingerprint"] in shown.out
    assert "300 tokens" in learn(ladderlm, corpus, out=out).out
    pieces = ladderlm("tokenizer", "show", out, "--text", "the é None").out.splitlines()
    text = b"".join(eval(line.split(maxsplit=1)[1]) for line in pieces)  # b'...'
    assert text.decode() == "the é None"


def test_a_folder_s_validation_text_is_left_out_but_a_named_file_is_read(
    ladderlm, corpus, tmp_path
):
    whole = learn(ladderlm, corpus, out=tmp_path / "a", words=["--json"]).json
    train = learn(ladderlm, corpus / "train.jsonl", out=tmp_path / "b", words=["--json"]).json
    named = learn(ladderlm, corpus / "val.jsonl", out=tmp_path / "c", words=["--json"]).json
    assert whole["fingerprint"] == train["fingerprint"]
    assert named["trained_on"]["n_documents"] == 11


def test_only_the_first_bytes_are_learnt_from_if_asked(ladderlm, corpus, tmp_path):
    words = ["--json", "--max-bytes", "2kB"]
    learnt = learn(ladderlm, corpus, out=tmp_path / "a", size=270, words=words).json["trained_on"]
    assert 2000 <= learnt["n_bytes"] < 4000


def test_records_of_another_shape_can_be_read(ladderlm, tmp_path):
    records = [{"body": r["text"], "kind": "x"} for r in make_records(30, seed=3)]
    file = write_jsonl(tmp_path / "a.jsonl", records)
    with open(file, "a") as stream:
        stream.write("not JSON\n")
    said = learn(ladderlm, file, out=tmp_path / "tok", words=["--text-key", "body"])
    assert said.code == 2
    assert "a.jsonl:31" in said.err
    words = ["--text-key", "body", "--subset-key", "kind", "--skip-bad", "--json"]
    said = learn(ladderlm, file, out=tmp_path / "tok", words=words)
    assert said.code == 0, said.err
    assert said.json["compression"]["subsets"].keys() == {"x"}


@pytest.mark.parametrize(
    ("size", "words", "says"),
    [
        (100, [], "choose between 258 and 1048576"),
        (100_000, [], "use --vocab-size"),
        (300, ["--max-bytes", "lots"], "'lots' is not a size"),
    ],
)
def test_sizes_that_do_not_work_are_refused_with_ones_that_do(
    size, words, says, ladderlm, corpus, tmp_path
):
    said = learn(ladderlm, corpus, out=tmp_path / "tok", size=size, words=words)
    assert said.code == 2
    assert says in said.err
    assert not (tmp_path / "tok").exists()


def test_sources_that_hold_nothing_are_named(ladderlm, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.jsonl").write_text("<html>")
    for source, says in (
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([tmp_path / "empty"], "holds no corpus file"),
        ([tmp_path / "page.jsonl"], "HTML"),
        ([], "no SOURCE is named"),
    ):
        said = learn(ladderlm, *source, out=tmp_path / "tok")
        assert said.code == 2
        assert says in said.err


def test_the_verbs_are_named(ladderlm):
    assert ladderlm("tokenizer").code == 2
    assert ladderlm("tokenizer").out == ladderlm("tokenizer", "--help").out
    said = ladderlm("tokenizer", "trian")
    assert said.code == 2
    assert "`tokenizer train`" in said.err
    assert "--vocab-size" in ladderlm("tokenizer", "train", "--vocab", "3").words


def test_a_folder_without_a_good_tokenizer_is_named(ladderlm, tiny_tokenizer_folder, tmp_path):
    said = ladderlm("tokenizer", "show", tmp_path)
    assert said.code == 2
    assert f"{tmp_path} holds no tokenizer.json" in said.err
    for name in ("tokenizer.json", "ladderlm.json"):
        text = (tiny_tokenizer_folder / name).read_text()
        (tmp_path / name).write_text(text.replace('"fingerprint": "', '"fingerprint": "0'))
    said = ladderlm("tokenizer", "show", tmp_path)
    assert said.code == 2
    assert "does not match the fingerprint" in said.err
