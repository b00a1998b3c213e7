"""`ladderlm tokenizer`: train and show."""

import base64
import json
import random
import subprocess
import sys

import pytest

from builders import WORDS, make_records, write_jsonl


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
        (100, [], "must be between 258 and 1048576, got 100"),
        (100_000, [], "use --vocab-size"),
        (300, ["--max-bytes", "lots"], "a size must be a number with an optional unit, got 'lots'"),
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


def test_the_text_that_compression_is_measured_on_is_not_learnt_from(ladderlm, tmp_path):
    """Every tenth document is held out; a word that stands only there becomes no token."""
    records = make_records(60, seed=3)
    for record in records[9::10]:
        record["text"] = "zyxwvu " * 200
        record["meta"]["pile_set_name"] = "Held"
    out = tmp_path / "tok"
    report = learn(ladderlm, write_jsonl(tmp_path / "a.jsonl", records), out=out, words=["--json"])
    table = report.json["compression"]
    assert table["held_out"] is True
    held = table["subsets"]["Held"]
    assert table["subsets"].keys() == {"Held"}
    assert held == {"n_documents": 6, "n_bytes": 6 * 1400, "n_tokens": held["n_tokens"]}
    assert held["n_tokens"] >= 6 * 200 * 6
    assert table["n_bytes"] == held["n_bytes"]
    shown = ladderlm("tokenizer", "show", out)
    rate = held["n_bytes"] / held["n_tokens"]
    assert f"{rate:8.3f}  Held (6 documents)" in shown.out
    assert "held-out text" in shown.out
    assert ladderlm("tokenizer", "show", out, "--json").json["compression"] == table


def test_a_corpus_of_a_few_documents_is_measured_on_itself_and_says_so(ladderlm, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", make_records(5, seed=3))
    said = learn(ladderlm, source, out=tmp_path / "tok", size=270)
    assert said.code == 0, said.err
    assert "the training text" in said.out
    assert (
        ladderlm("tokenizer", "show", tmp_path / "tok", "--json").json["compression"]["n_documents"]
        == 5
    )


PEAK = """
import resource, sys
from ladderlm.prepare.vocabulary import TokenizerConfig, train_tokenizer
where = {"sources": (sys.argv[1],), "out": sys.argv[2]}
train_tokenizer(TokenizerConfig(vocab_size=300, max_bytes=10**9, **where))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_eight_times_the_text_takes_the_same_memory(tmp_path, child_environment):
    """The corpus is read once and never held."""
    rng = random.Random(1)
    peaks = []
    for n in (20, 160):
        path = tmp_path / f"{n}.jsonl"
        with open(path, "w") as stream:
            for _ in range(n):
                stream.write(json.dumps({"text": " ".join(rng.choices(WORDS, k=20_000))}) + "\n")
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path), str(tmp_path / f"tok-{n}")],
            env=child_environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] <= 1.1 * peaks[0]


def test_a_foreign_tokenizer_is_imported_and_shown(ladderlm, tmp_path):
    lines = [base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)]
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines))
    said = ladderlm("tokenizer", "import", tmp_path, "--out", tmp_path / "own")
    assert said.code == 0, said.err
    assert "512 tokens" in said.out
    assert "llama3-tiktoken" in said.out
    shown = ladderlm("tokenizer", "show", tmp_path / "own", "--json").json
    assert (shown["bos"], shown["bos_id"], shown["pad_id"]) == ("<|begin_of_text|>", 256, -1)
    raw = ladderlm("tokenizer", "show", tmp_path / "tokenizer.model", "--json").json
    assert raw["fingerprint"] == shown["fingerprint"]
    pieces = ladderlm("tokenizer", "show", tmp_path / "own", "--text", "é", "--json").json
    assert pieces == [{"id": 0xC3, "bytes": "c3"}, {"id": 0xA9, "bytes": "a9"}]
    again = ladderlm("tokenizer", "import", tmp_path / "own", "--out", tmp_path / "b")
    assert again.code == 2
    assert "is a tokenizer folder of ladderlm" in again.err


def test_a_foreign_tokenizer_prepares_data(ladderlm, corpus, tmp_path):
    """Its files travel into the data, which `verify` then holds against their hashes."""
    lines = [base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)]
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines))
    ladderlm("tokenizer", "import", tmp_path, "--out", tmp_path / "own")
    out = tmp_path / "data"
    said = ladderlm("prepare", corpus, "--tokenizer", tmp_path / "own", "--out", out)
    assert said.code == 0, said.err
    assert (out / "tokenizer" / "tokenizer.model").read_bytes() == b"".join(lines)
    assert ladderlm("verify", out).code == 0
    (out / "tokenizer" / "tokenizer.model").write_bytes(b"".join(lines[::-1]))
    said = ladderlm("verify", out)
    assert said.code == 2
    assert "tokenizer.model does not match the sha256" in said.err


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
    assert f"{tmp_path} contains no tokenizer.json" in said.err
    for name in ("tokenizer.json", "ladderlm.json"):
        text = (tiny_tokenizer_folder / name).read_text()
        (tmp_path / name).write_text(text.replace('"fingerprint": "', '"fingerprint": "0'))
    said = ladderlm("tokenizer", "show", tmp_path)
    assert said.code == 2
    assert "does not match the fingerprint" in said.err
