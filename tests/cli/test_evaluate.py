"""`ladderlm eval`: numbers, files, comparisons, and what is refused."""

import json
import math
import socket
import subprocess

import numpy as np
import pytest

from builders import make_records, write_jsonl
from ladderlm.eval.subsets import PILE_SUBSETS
from ladderlm.run.directory import RunDirectory


def test_the_numbers_are_those_of_the_end_of_the_run(ladderlm, run):
    said = ladderlm("eval", run, "--fresh", "--json")
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
    assert json.loads(files[0].read_text())["key"] == found.json["key"]
    with np.load(files[1], allow_pickle=False) as arrays:
        assert {
            len(arrays[name]) for name in ("document_ids", "subset_ids", "n_bytes", "n_tokens")
        } == {5}


def test_an_older_checkpoint_and_another_split_can_be_named(ladderlm, run):
    last, older = (ladderlm("eval", run, *w, "--json").json for w in ([], ["--checkpoint", "4"]))
    assert (last["step"], older["step"]) == (8, 4)
    assert older["bits_per_byte"] != last["bits_per_byte"]
    train = ladderlm("eval", run, "--split", "train", "--max-documents", "3", "--json").json
    assert (train["split"], train["n_documents"], train["split_documents"]) == ("train", 3, 60)


def test_data_elsewhere_gives_the_same_numbers(ladderlm, run, data):
    first, second = (
        ladderlm("eval", run, "--fresh", *words, "--json").json for words in ([], ["--data", data])
    )
    assert first.pop("timing") != second.pop("timing")
    assert first == second


def test_a_corpus_file_gives_the_numbers_of_the_data_prepared_from_it(ladderlm, run, corpus):
    first, second, some = (
        ladderlm("eval", run, "--fresh", *words, "--json").json
        for words in ([], ["--data", corpus], ["--data", corpus, "--max-documents", "5"])
    )
    for name in ("nats", "eos_nats", "n_bytes", "n_tokens", "n_documents", "subsets", "split"):
        assert first[name] == second[name]
    assert first["source"]["files"][0]["sha256"] == second["source"]["files"][0]["sha256"]
    assert (some["n_documents"], some["split_documents"]) == (5, None)
    said = ladderlm("eval", run, "--against", run, "--data", corpus / "val.jsonl")
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-documents", "0"], "--max-documents must be at least 1, got 0"),
        (["--max-documents", "-3"], "at least 1, got -3"),
        (["--context", "0"], "context = 0"),
        (["--context", "-1"], "context = -1"),
        (["--context", "100000"], "--context must be at most the 64"),
        (["--stride", "0"], "stride = 0"),
        (["--stride", "33"], "between 1 and the context 32"),
        (["--split", "vall"], "only train, val"),
        (["--checkpoint", "7"], "only those of steps [4, 8]"),
        (["--checkpoint", "first"], "has no checkpoint 'first'"),
        (["--batch-tokens", "0"], "--batch-tokens must be at least 1, got 0"),
        (["--against", "nowhere"], "nowhere is not a run folder"),
        (["--against", "nowhere", "--table"], "--against cannot be combined with --table"),
        (["--data", "nowhere"], "ladderlm prepare"),
    ],
)
def test_what_cannot_be_scored_is_refused_not_replaced(words, says, ladderlm, run):
    said = ladderlm("eval", run, *words)
    assert said.code == 2
    assert says in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    "words", [["--stpe", "4"], ["--context", "wide"], ["--packing", "loose"], ["second-run"]]
)
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
    said = ladderlm("eval", run, "--checkpoint", "4")
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
        assert "\\u{1b}[31mred" in said.out
        assert "\x1b" not in said.out


def test_what_is_printed_names_text_policy_averages_and_where_it_is_stored(ladderlm, run):
    said = ladderlm("eval", run, "--max-documents", "9", "--context", "32", "--stride", "20")
    found = ladderlm("eval", run, "--max-documents=9", "--context=32", "--stride=20", "--json").json
    (file,) = found["source"]["files"]
    assert f"from val.jsonl (sha256 {file['sha256'][:12]}); 0 texts of the split" in said.out
    assert "context 32, stride 20" in said.out
    assert "re-reads 12 tokens" in said.out
    assert f"micro {found['bits_per_byte']:.4f} bits/byte" in said.out
    assert f"macro {found['macro_bits_per_byte']:.4f} bits/byte, mean over subsets (2)" in said.out
    assert f"perplexity {found['perplexity']:.2f}" in said.out
    assert f"{found['loss']:.4f} nats/token" in said.out
    assert f"EOS alone {found['eos_nats'] / 9:.4f} nats a document" in said.out
    assert "none of the Pile's 22 official subsets occurs" in said.out
    assert "stored in" in said.out
    assert "too few documents" in said.out  # subset Code has three


def test_a_second_look_reads_the_stored_answer_and_says_so(ladderlm, run):
    words = ("eval", run, "--max-documents", "7")
    first, second = ladderlm(*words), ladderlm(*words)
    assert "stored in" in first.out
    assert "stored already, read from" in second.out
    assert [found.replace("stored in", "stored already, read from") for found in [first.out]] == [
        second.out
    ]
    assert ladderlm(*words, "--json").json["reused"]
    assert not ladderlm(*words, "--fresh", "--json").json["reused"]


@pytest.mark.parametrize("words", [["--batch-tokens", "7"], ["--packing", "packed"]])
def test_how_it_is_carried_out_does_not_change_the_numbers(words, ladderlm, run):
    one, two = (ladderlm("eval", run, "--fresh", *w, "--json").json for w in ([], words))
    for name in ("bits_per_byte", "loss", "eos_nats", "macro_bits_per_byte"):
        assert two[name] == pytest.approx(one[name], rel=1e-6)
    assert two["key"] == one["key"]


def test_all_22_official_subsets_and_unknown_names_get_their_rows(
    ladderlm, run, tiny_data, tmp_path
):
    """D08: an unknown name is a row of its own, a missing one counts under "unknown"."""
    records = make_records(24 * 2, seed=9)
    names = [*PILE_SUBSETS, "Own Notes"]
    for i, record in enumerate(records):
        record["meta"] = {"pile_set_name": names[i % 24]} if i % 24 < 23 else {}
    source = write_jsonl(tmp_path / "all.jsonl", records)
    words = ["--tokenizer", tiny_data / "tokenizer", "--out", tmp_path / "data", "--split", "val"]
    assert ladderlm("prepare", source, *words).code == 0
    found = ladderlm("eval", run, "--data", tmp_path / "data", "--json").json
    assert set(found["subsets"]) == {*PILE_SUBSETS, "Own Notes", "unknown"}
    assert found["pile"]["occurring"] == list(PILE_SUBSETS)
    assert (found["pile"]["missing"], found["pile"]["unknown"]) == ([], ["Own Notes", "unknown"])
    raw = [len(record["text"].encode()) for record in records]
    for i, name in enumerate([*names, "unknown"]):
        assert found["subsets"][name]["n_documents"] == 2
        assert found["subsets"][name]["n_bytes"] == raw[i] + raw[i + 24]
    rates = [row["bits_per_byte"] for row in found["subsets"].values()]
    assert found["macro_bits_per_byte"] == pytest.approx(sum(rates) / 24)
    assert found["n_bytes"] == sum(raw)
    text = ladderlm("eval", run, "--data", tmp_path / "data").out
    assert "all 22 official subsets of the Pile occur" in text
    assert "Own Notes*" in text
    assert "Gutenberg (PG-19) " in text
    some = ladderlm("eval", run, "--data", tmp_path / "data", "--max-documents", "3")
    assert "3 of the Pile's 22 official subsets occur; not: DM Mathematics, Enron" in some.out
    assert "no training split" in some.out


@pytest.fixture
def other(ladderlm, run, config_file, tiny_data, tmp_path):
    """A run of the same data with other weights, trained for half as long."""
    words = ["--config", config_file, "--data", tiny_data, "--out", tmp_path / "other"]
    assert ladderlm("train", *words, "--train.n-steps", "4", "--train.seed", "5").code == 0
    return tmp_path / "other"


def test_two_runs_are_compared_document_by_document(ladderlm, run, other):
    found = ladderlm("eval", run, "--against", other, "--json").json
    (alone,) = found["evaluations"]
    (comparison,) = found["comparisons"]
    against = ladderlm("eval", other, "--json").json
    assert comparison["micro"]["bits_per_byte"] == alone["bits_per_byte"]
    assert comparison["micro"]["against_bits_per_byte"] == against["bits_per_byte"]
    low, high = comparison["micro"]["difference_95"]
    assert low < alone["bits_per_byte"] - against["bits_per_byte"] < high < 0
    assert set(comparison["subsets"]) == {"Code", "Prose"}
    assert comparison["subsets"]["Prose"]["p_holm"] >= comparison["subsets"]["Prose"]["p"]
    text = ladderlm("eval", run, "--against", other).out
    assert f"{comparison['micro']['difference']:+.4f}" in text
    assert f"{run} against {other}, on the same 12 documents" in text
    assert "negative: the former is better" in text
    assert "Holm" in text


def test_another_context_in_a_comparison_is_said(ladderlm, run, other, config_file, tiny_data):
    from ladderlm.files import publish_json, read_json

    config = read_json(other / "config.json")
    config["eval"]["context"] = config["eval"]["stride"] = 16
    publish_json(other / "config.json", config)
    said = ladderlm("eval", run, "--against", other)
    assert "the policies differ: context 32, stride 32 against context 16, stride 16" in said.out
    said = ladderlm("eval", run, other, "--table")
    assert "the runs were not scored with the same context and stride" in said.out
    assert "policies differ" not in ladderlm("eval", run, "--against", other, "--context=8").out


def test_a_table_of_runs_holds_size_compute_and_the_difference_to_the_first(ladderlm, run, other):
    said = ladderlm("eval", other, run, "--table")
    found = ladderlm("eval", other, run, "--table", "--json").json
    first, second = found["evaluations"]
    assert [one["run"] for one in (first, second)] == [str(other), str(run)]
    lines = {line.split()[0]: line for line in said.out.splitlines() if line.startswith("/")}
    for one in (first, second):
        line = lines[one["run"]]
        assert f"{one['bits_per_byte']:.4f}" in line
        assert f"{one['training']['flops']:.2e}" in line
    (comparison,) = found["comparisons"]
    assert f"{comparison['micro']['difference']:+.4f}" in lines[str(run)]
    low, high = comparison["micro"]["difference_95"]
    assert f"{low:+.4f} to {high:+.4f}" in lines[str(run)]
    assert "+" not in lines[str(other)].removeprefix(str(other)).replace("e+", "")
    assert first["training"]["flops"] == second["training"]["flops"] / 2


def test_runs_of_two_tokenizers_are_compared_on_the_same_bytes(
    ladderlm, run, corpus, config_file, tiny_data, tmp_path
):
    """Bits per byte does not depend on the tokenizer; other texts are refused."""
    tokenizer, data, out = tmp_path / "tok", tmp_path / "data", tmp_path / "own"
    words = ["--vocab-size", "300", "--out", tokenizer]
    assert ladderlm("tokenizer", "train", corpus, *words).code == 0
    assert ladderlm("prepare", corpus, "--tokenizer", tokenizer, "--out", data).code == 0
    assert ladderlm("train", "--config", config_file, "--data", data, "--out", out).code == 0
    found = ladderlm("eval", run, "--against", out, "--json").json["comparisons"][0]
    assert found["n_documents"] == 12
    assert found["micro"]["difference"] != 0
    two = ladderlm("eval", run, out, "--data", tiny_data, "--data", data, "--table")
    assert two.code == 0, two.err
    changed = write_jsonl(tmp_path / "val.jsonl", make_records(12, seed=3))
    words = ["--tokenizer", tokenizer, "--out", tmp_path / "changed", "--split", "val"]
    assert ladderlm("prepare", changed, *words).code == 0
    said = ladderlm(
        "eval", run, out, "--data", tiny_data, "--data", tmp_path / "changed", "--table"
    )
    assert said.code == 2
    assert f"{out} and {run} cannot be compared: 12 of 12 documents hold another text" in said.err


def start_two(python, environment, run):
    """Start two processes of one evaluation, as torchrun would; return what they print together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [python, "-m", "ladderlm.cli.main", "eval", str(run), "--device", "cpu", "--json"]
    children = [
        subprocess.Popen(
            command,
            env=environment | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [child.returncode for child in children] == [0, 0], said
    return "".join(out for out, _ in said)


def start_torchrun(python, environment, run):
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ladderlm.cli.main", "eval", str(run), "--device", "cpu", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


STARTS = [
    pytest.param(start_two, marks=pytest.mark.long),
    pytest.param(start_torchrun, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("start", STARTS)
def test_two_processes_give_the_numbers_of_one(start, ladderlm, run, python, child_environment):
    """T04: windows are shared out; one process writes and speaks."""
    alone = ladderlm("eval", run, "--fresh", "--json").json
    for file in (run / "evals").iterdir():
        file.unlink()
    shared = json.loads(start(python, child_environment, run))  # the second process is silent
    assert not shared["reused"]
    for name in ("bits_per_byte", "macro_bits_per_byte", "loss", "eos_nats", "nats"):
        assert shared[name] == pytest.approx(alone[name], rel=1e-6)
    for name in ("n_bytes", "n_tokens", "n_documents", "key", "policy", "source"):
        assert shared[name] == alone[name]
    stored = ladderlm("eval", run, "--json").json
    assert (stored["reused"], stored["nats"]) == (True, shared["nats"])


def test_an_interrupted_evaluation_leaves_nothing_and_no_traceback(ladderlm, run, monkeypatch):
    """C05: Ctrl-C in the middle of the windows; the same command then goes through."""
    from ladderlm.eval.scorer import TransformerScorer

    before = sorted(file.name for file in (run / "evals").iterdir())
    nats, calls = TransformerScorer.nats, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return nats(*arguments)

    words = ("eval", run, "--max-documents", "6", "--batch-tokens", "8")
    with monkeypatch.context() as patch:
        patch.setattr(TransformerScorer, "nats", interrupted)
        said = ladderlm(*words)
    assert (said.code, said.out, said.err) == (130, "", "interrupted\n")
    assert sorted(file.name for file in (run / "evals").iterdir()) == before
    assert ladderlm(*words).code == 0
