"""`ladderlm eval` with models of other people beside runs."""

import importlib.util
import shutil
import sys
from types import SimpleNamespace

import pytest

from builders import make_records, write_jsonl
from reference.causal_lm import END, write_causal_lm

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers [interop]"
)
COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return write_causal_lm(tmp_path_factory.mktemp("foreign") / "gpt2", "gpt2", n_positions=32)


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    return write_causal_lm(tmp_path_factory.mktemp("foreign") / "neox", "neox", bos=None)


def test_our_llama_gives_through_transformers_the_number_of_the_run(
    ladderlm, run, tiny_data, tmp_path
):
    folder = tmp_path / "hf"
    assert ladderlm("convert", run, "--to", "hf", "--out", folder).code == 0
    words = ("--context", "32", "--stride", "11", "--out", tmp_path / "evals", "--json")
    both = ladderlm("eval", run, folder, "--table", *words).json["evaluations"]
    for name in ("bits_per_byte", "macro_bits_per_byte", "loss", "eos_nats", "nats"):
        assert both[1][name] == pytest.approx(both[0][name], rel=1e-5)
    for name in ("n_documents", "n_bytes", "n_tokens", "policy", "source", "precision"):
        assert both[1][name] == both[0][name]
    assert both[1]["training"]["n_params"]["total"] == both[0]["training"]["n_params"]["total"]
    assert both[1]["training"]["flops"] is None
    assert ladderlm("convert", folder, "--to", "native", "--out", tmp_path / "back").code == 0
    words = ("--data", tiny_data, "--context", "32", "--stride", "11", "--json")
    back = ladderlm("eval", tmp_path / "back", *words).json
    assert back["nats"] == pytest.approx(both[0]["nats"], rel=1e-6)
    assert back["training"]["flops"] is None  # what it was trained on is not said by its weights


def test_a_table_sets_a_run_beside_foreign_models_on_the_same_documents(
    ladderlm, run, gpt2, neox, tmp_path
):
    words = ("eval", run, gpt2, neox, "--table", "--out", tmp_path / "evals")
    said, found = ladderlm(*words), ladderlm(*words, "--json").json
    assert said.code == 0, said.err
    ours, one, two = found["evaluations"]
    assert ours["n_bytes"] == one["n_bytes"] == two["n_bytes"]
    lines = {line.split()[0]: line for line in said.out.splitlines() if line.startswith("/")}
    for model, comparison in zip((one, two), found["comparisons"], strict=True):
        assert model["reused"]
        cells = lines[model["run"]].removeprefix(model["run"]).split()
        context = model["policy"]["context"]
        assert cells[1] == "unknown"  # no step stands before
        assert cells[2] == f"{context}/{context}"
        assert f"{model['bits_per_byte']:.4f}" == cells[3]
        low, high = comparison["micro"]["difference_95"]
        assert low < model["bits_per_byte"] - ours["bits_per_byte"] < high
        assert cells[5:] == [
            f"{comparison['micro']['difference']:+.4f}",
            f"{low:+.4f}",
            "to",
            f"{high:+.4f}",
        ]
    assert "not scored with the same context" in said.out
    assert f"{gpt2}: GPT2LMHeadModel" in said.out
    assert f"a document begins with {END}" in said.out
    assert f"no BOS: a document begins with EOS, {END}" in said.out
    against = ladderlm("eval", gpt2, "--against", run, "--out", tmp_path / "evals")
    assert against.code == 0
    assert f"{gpt2} against {run}, on the same 12 documents" in against.out


def test_one_corpus_file_serves_runs_and_foreign_models(ladderlm, run, gpt2, tmp_path):
    source = write_jsonl(tmp_path / "other.jsonl", make_records(7, seed=8))
    said = ladderlm("eval", run, gpt2, "--data", source, "--table", "--out", tmp_path / "evals")
    assert said.code == 0, said.err
    assert "other, 7 documents" in said.out


def test_a_foreign_model_alone_is_scored_on_a_file(ladderlm, gpt2, tmp_path, monkeypatch):
    source = write_jsonl(tmp_path / "val.jsonl", make_records(12, seed=2))
    monkeypatch.chdir(tmp_path)
    said = ladderlm("eval", gpt2, "--data", source, "--max-documents", "9")
    assert said.code == 0, said.err
    assert f"{gpt2}, float32: val, 9 documents (the first of a longer file)" in said.out
    assert "from val.jsonl (sha256 " in said.out
    (stored,) = (tmp_path / "evals").glob("*-val-ctx32-str32-first9-*.json")
    assert f"stored in evals/{stored.name}" in said.out
    assert stored.with_suffix(".npz").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no data is named"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--checkpoint", "best", "--data", "x"], "--checkpoint best needs a run"),
        (["--context", "33", "--data", "DATA"], "--context must be at most the 32"),
    ],
)
def test_what_cannot_be_asked_of_a_foreign_model_is_refused(
    words, says, ladderlm, gpt2, tiny_data, tmp_path
):
    words = [tiny_data if word == "DATA" else word for word in words]
    said = ladderlm("eval", gpt2, *words, "--out", tmp_path / "evals")
    assert said.code == 2
    assert says in said.err
    assert not (tmp_path / "evals").exists()


def test_without_transformers_the_extra_is_named(ladderlm, gpt2, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = ladderlm("eval", gpt2, "--data", tiny_data, "--out", tmp_path / "evals")
    assert said.code == 2
    assert "pip install 'ladderlm[interop]'" in said.err


@pytest.fixture
def hub(gpt2, tmp_path, monkeypatch):
    """A hub's cache with one model, and no network."""
    folder = tmp_path / "cache/models--owner--small"
    shutil.copytree(gpt2, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    (folder / "refs/step5").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def test_a_name_of_the_hub_is_found_in_its_cache_which_stays_as_it_was(
    ladderlm, hub, tiny_data, tmp_path
):
    before = sorted(map(str, hub.rglob("*")))
    for name in ("owner/small", "owner/small@step5"):
        said = ladderlm("eval", name, "--data", tiny_data, "--out", tmp_path / "evals")
        assert said.code == 0, said.err
        assert f"commit {COMMIT}" in said.out
    assert sorted(map(str, hub.rglob("*"))) == before
    said = ladderlm("eval", "owner/small", "--data", tiny_data, "--out", hub / "blobs/evals")
    assert said.code == 2
    assert "is in the folder of the model" in said.err
    said = ladderlm("eval", "owner/other", "--data", tiny_data)
    assert said.code == 2
    assert (
        "owner/other is not a local folder, and the hub returned no model of that name" in said.err
    )


def test_only_files_of_the_model_are_fetched_at_one_commit(
    ladderlm, hub, tiny_data, tmp_path, monkeypatch
):
    """The hub's client is asked for what is read, and for nothing that could run."""
    names = "config.json model-00001-of-00002.safetensors tokenizer.json vocab.txt README.md "
    names += "pytorch_model.bin own.py onnx/config.json model.fp16.safetensors flax_model.msgpack"
    asked = {}

    def describe(_self, repository, revision, files_metadata):
        asked["described"] = (repository, revision, files_metadata)
        siblings = [SimpleNamespace(rfilename=name, size=5) for name in names.split()]
        return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def fetch(repository, revision, allow_patterns):
        asked["fetched"] = (repository, revision, allow_patterns)
        return str(hub / "snapshots" / COMMIT)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", describe)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    words = ("--data", tiny_data, "--out", tmp_path / "evals", "--json")
    found = ladderlm("eval", "owner/small@step5", *words).json
    assert found["foreign"]["commit"] == COMMIT
    assert asked == {
        "described": ("owner/small", "step5", True),
        "fetched": ("owner/small", COMMIT, names.split()[:4]),
    }
    names = "config.json pytorch_model.bin"
    said = ladderlm("eval", "owner/small", *words)
    assert said.code == 2
    assert "it has no model.safetensors, and pickles are not opened" in said.err


def test_a_slip_in_a_path_asks_no_hub(ladderlm, hub, tmp_path, monkeypatch):
    """X05."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/first", "first", "a/b/c"):
        said = ladderlm("eval", name)
        assert said.code == 2
        assert f"{name} is not a run folder" in said.err
