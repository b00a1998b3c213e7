"""The average of the weights: its formula, its place in a run, and that training ignores it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ladderlm.checkpoint.layout import list_checkpoints
from ladderlm.errors import CheckpointError
from ladderlm.eval.config import EvaluationRequest
from ladderlm.model.init import init_weights
from ladderlm.model.transformer import Transformer
from ladderlm.run.execute import execute
from ladderlm.run.open import load
from ladderlm.run.subject import evaluate_run
from ladderlm.training.average import WeightAverage
from reference.hand_made import make_model
from reference.runs import BrokenError, break_at, lines_of, outcome

QUICK = {"eval__n_evals": 2, "eval__n_samples": 0, "eval__n_documents": 3}


def last_of(folder):
    return list_checkpoints(folder / "checkpoints")[-1].folder


def test_the_average_is_that_of_the_formula():
    """Beside it one number at a time, in float64."""
    model = make_model()
    average = WeightAverage(model, 0.5)
    generator = torch.Generator().manual_seed(3)
    wanted = model.output.weight[3, 4].item()
    for n in range(1, 8):
        with torch.no_grad():
            model.output.weight.add_(torch.randn(50, 16, generator=generator))
        average.update(n)
        decay = min(0.5, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * model.output.weight[3, 4].item()
    assert float(average.weights["output.weight"][3, 4]) == pytest.approx(wanted, rel=1e-5)


def test_the_model_holds_the_average_meanwhile_and_its_own_weights_after_an_error():
    model = make_model()
    average = WeightAverage(model, 0.9)
    parameter = model.output.weight
    with torch.no_grad():
        parameter.add_(1.0)
    own, kept = parameter.clone(), average.weights["output.weight"].clone()

    seen = []

    def fail():
        seen.append(parameter.clone())
        raise RuntimeError

    with pytest.raises(RuntimeError), average.in_place():
        fail()
    assert torch.equal(seen[0], kept)
    assert torch.equal(parameter, own)
    assert torch.equal(average.weights["output.weight"], kept)


def test_a_run_with_an_average_trains_as_one_without_and_scores_both(tiny_config, tmp_path):
    plain = execute(tiny_config(**QUICK, out=str(tmp_path / "plain")))
    folder = execute(tiny_config(**QUICK, train__ema_decay=0.8))
    for name in ("model", "optimizer"):
        files = [(last_of(f) / f"{name}.safetensors").read_bytes() for f in (plain, folder)]
        assert files[0] == files[1]
    evals = json.loads((folder / "summary.json").read_text())["evals"]["val"]
    assert set(evals) == {"last", "best", "average"}
    wanted = json.loads((plain / "summary.json").read_text())["evals"]["val"]["last"]
    assert evals["last"]["loss"] == wanted["loss"]
    assert evals["average"]["loss"] != wanted["loss"]
    rows = [r for r in lines_of(folder / "metrics.jsonl") if "val-head" in r.get("split", "")]
    assert rows[0]["average"] == {k: rows[0][k] for k in ("loss", "bits_per_byte")}  # step 0
    assert all(r["average"]["loss"] != r["loss"] for r in rows[1:])


def test_the_average_is_a_twin_of_the_saved_weights(tiny_config):
    """Made again from a checkpoint after every step."""
    config = tiny_config(
        **QUICK | {"eval__n_evals": 0},
        train__ema_decay=0.7,
        train__n_steps=6,
        checkpoint__every_steps=1,
        checkpoint__keep=9,
    )
    folder = execute(config)
    first, *later = [
        load_file(c.folder / "model.safetensors")["output.weight"].double().numpy()
        for c in list_checkpoints(folder / "checkpoints")
    ]
    model = Transformer(load(folder).config.model)
    init_weights(model, config.train.seed)
    wanted = model.output.weight.detach().double().numpy()
    for n, weight in enumerate([first, *later], 1):
        decay = min(0.7, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * weight
    found = load_file(last_of(folder) / "average.safetensors")["output.weight"].numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_a_run_with_an_average_that_was_stopped_ends_with_the_same_bytes(tiny_config, tmp_path):
    """C16: the average too."""
    fields = {**QUICK, "train__ema_decay": 0.9}
    whole = execute(tiny_config(**fields, out=str(tmp_path / "whole")))
    with pytest.raises(BrokenError):
        execute(tiny_config(**fields), observe=break_at(8))
    folder = execute(tiny_config(**fields))
    assert outcome(folder) == outcome(whole)
    files = [(last_of(f) / "average.safetensors").read_bytes() for f in (whole, folder)]
    assert files[0] == files[1]


def test_the_average_can_be_loaded_and_scored(tiny_config):
    folder = execute(tiny_config(**QUICK, train__ema_decay=0.8))
    averaged = load(folder, "average").model.output.weight
    stored = load_file(last_of(folder) / "average.safetensors")["output.weight"]
    assert torch.equal(averaged, stored)
    assert not torch.equal(averaged, load(folder).model.output.weight)
    request = EvaluationRequest(checkpoint="average", max_documents=3, fresh=True)
    found = evaluate_run(folder, request).summary["loss"]
    evals = json.loads((folder / "summary.json").read_text())["evals"]["val"]
    assert found == pytest.approx(evals["average"]["loss"], rel=1e-6)


def test_a_run_without_an_average_says_so(tiny_config):
    folder = execute(tiny_config(**QUICK, train__n_steps=1))
    with pytest.raises(CheckpointError, match="holds no average"):
        evaluate_run(folder, EvaluationRequest(checkpoint="average"))
    with pytest.raises(CheckpointError, match="no average"):
        load(folder, "average")
