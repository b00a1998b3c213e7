"""`ladderlm convert` as the docs print it, and what the other commands make of its results."""

import json
import os
import pickle

import pytest
import torch

from ladderlm.run.execute import execute
from ladderlm.run.open import load
from reference.foreign import write_hf_folder
from reference.hand_made import make_model


@pytest.fixture
def model():
    return make_model(vocab_size=320, n_kv_heads=2, max_seq_len=128)


@pytest.fixture
def folder(model, tiny_tokenizer_folder, tmp_path):
    """A Hugging Face folder with a tokenizer."""
    found = write_hf_folder(tmp_path / "hf", model)
    for name in ("tokenizer.json", "ladderlm.json"):
        (found / name).write_bytes((tiny_tokenizer_folder / name).read_bytes())
    return found


def test_a_foreign_model_becomes_a_run_that_every_command_opens(
    ladderlm, folder, model, tiny_data, tmp_path
):
    out, certificate = tmp_path / "run", tmp_path / "certificate.json"
    said = ladderlm(
        "convert", str(folder), "--to", "native", "--out", str(out), f"--certificate={certificate}"
    )
    assert said.code == 0, said.err
    assert "the certificate holds" in said.out
    assert json.loads(certificate.read_text())["holds"] is True
    loaded = load(out)
    tokens = torch.arange(3, 60).unsqueeze(0)
    assert torch.equal(loaded.model(tokens), model(tokens))
    said = ladderlm("eval", str(out), f"--data={tiny_data}", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["n_documents"] == 12
    said = ladderlm("generate", str(out), "--prompt=the model", "--max-new-tokens=4")
    assert said.code == 0, said.err
    assert ladderlm("verify", str(out)).code == 0


def test_a_run_goes_out_and_comes_back_to_the_bit(ladderlm, folder, model, tmp_path):
    hops = [
        ("native", folder, ()),
        ("meta", tmp_path / "native", ("--shards=2", f"--certificate={tmp_path / 'meta-c'}")),
        ("hf", tmp_path / "meta", ()),
        ("native", tmp_path / "hf-2", ()),
    ]
    for to, source, more in hops:
        out = tmp_path / to if not (tmp_path / to).exists() else tmp_path / f"{to}-2"
        said = ladderlm("convert", str(source), f"--to={to}", f"--out={out}", *more)
        assert said.code == 0, said.err
    certificate = json.loads((tmp_path / "meta-c.json").read_text())
    assert certificate["holds"]
    files = {"consolidated.00.pth", "consolidated.01.pth", "params.json"}
    assert certificate["hop"]["to"]["files"].keys() == files
    weights = dict(load(tmp_path / "native-2").model.named_parameters())
    assert weights.keys() == dict(model.named_parameters()).keys()
    for name, weight in model.named_parameters():
        assert torch.equal(weights[name], weight)


def test_wrong_use_is_refused_before_anything_is_written(ladderlm, folder, tmp_path):
    out = str(tmp_path / "out")
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    cases = [
        ((str(tmp_path), "--to=hf", f"--out={out}"), "is no model"),
        ((str(folder), "--to=hf", f"--out={full}"), "not an empty folder"),
        ((str(folder), "--to=hf", f"--out={out}", "--shards=2"), "only Meta's"),
        (
            (str(folder), "--to=meta", f"--out={out}", "--shards=0"),
            "--shards must be between 1 and 64, got 0",
        ),
        ((str(folder), "--to=native", f"--out={out}", "--dtype=float16"), "float32"),
        ((str(folder), "--to=hf", f"--out={out}", "--dtype=q8_0"), "q8_0"),
        ((str(folder), "--to=hf", f"--out={out}", "--max-seq-len=0"), "--max-seq-len"),
        ((str(folder), "--to=hf", f"--out={out}", f"--tokenizer={full}"), "is no tokenizer"),
    ]
    for words, message in cases:
        said = ladderlm("convert", *words)
        assert said.code == 2, words
        assert message in said.err
        assert "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_tokenizer_is_no_run(ladderlm, folder, tmp_path):
    for name in ("tokenizer.json", "ladderlm.json"):
        (folder / name).unlink()
    said = ladderlm("convert", str(folder), "--to=native", f"--out={tmp_path / 'out'}")
    assert said.code == 2
    assert "has no tokenizer" in said.err
    assert "--tokenizer DIR" in said.err


class Canary:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


PICKLES = (
    "pytorch_model.bin consolidated.00.pth model.pt model.ckpt optimizer.pt .metadata __0_0.distcp "
    "training_args.bin tokenizer.model model.npy"
).split()


@pytest.mark.parametrize("alone", [pytest.param(True, marks=pytest.mark.long), False])
def test_no_pickle_of_any_name_is_run(alone, ladderlm, folder, tiny_data, tmp_path):
    """I01: instead of the weights, and beside good ones, for every command that reads a model."""
    canary = tmp_path / "canary"
    payload = pickle.dumps(Canary(canary))
    for name in PICKLES[2:] if not alone else PICKLES:
        (folder / name).write_bytes(payload)
    if alone:
        (folder / "model.safetensors").unlink()
        (folder / "params.json").write_text("{}")
    words = [
        ("convert", folder, "--to=hf", f"--out={tmp_path / 'out'}"),
        ("generate", folder),
        ("eval", folder, "--data", tiny_data, "--out", tmp_path / "evals"),
        ("verify", folder),
        ("tokenizer", "show", folder / "tokenizer.model"),
    ]
    said = [ladderlm(*command) for command in words]
    assert not canary.exists()
    if alone:
        assert {one.code for one in said} == {2}
        assert "safetensors" in said[0].err
    else:
        assert said[0].code == 0, said[0].err
    pickle.loads(payload)
    assert canary.exists()


def test_a_certificate_that_does_not_hold_gives_exit_code_1(
    ladderlm, folder, monkeypatch, tmp_path
):
    from ladderlm.convert import hf

    monkeypatch.setattr(hf, "to_halves", lambda weight, _n_heads: weight)
    words = ("--to=hf", f"--out={tmp_path / 'out'}", f"--certificate={tmp_path / 'c.json'}")
    said = ladderlm("convert", str(folder), *words)
    assert said.code == 1
    assert "DOES NOT HOLD" in said.out


def test_the_average_of_a_run_is_what_generate_and_convert_take(ladderlm, tiny_config, tmp_path):
    run = execute(tiny_config(train__n_steps=3, train__ema_decay=0.8))
    words = ["--to", "native", "--out", tmp_path / "averaged", "--checkpoint", "average"]
    assert ladderlm("convert", run, *words).code == 0
    averaged, last = load(run, "average").model, load(run).model
    found = load(tmp_path / "averaged").model
    assert torch.equal(found.output.weight, averaged.output.weight)
    assert not torch.equal(found.output.weight, last.output.weight)
    drawn = ["--temperature", "0", "--max-new-tokens", "8"]
    one = ladderlm("generate", run, "--checkpoint", "average", *drawn)
    two = ladderlm("generate", tmp_path / "averaged", *drawn)
    assert (one.code, one.out) == (0, two.out)
