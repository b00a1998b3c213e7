"""Twins made for speed: float32 masters behind them, and the numbers of the plain model."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from ladderlm.errors import ConfigError
from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.transformer import Transformer
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.run import settle as settle_module
from ladderlm.run.execute import execute
from ladderlm.run.settle import settle_compile
from ladderlm.training.compute import CACHE_VARIABLE, Compute, find_cpp_compiler
from ladderlm.training.step import accumulate_gradients
from reference.checks import counting_batch, one_step, ragged_batch
from reference.hand_made import make_model
from reference.runs import BrokenError, break_at, outcome

QUICK = {"eval__n_evals": 0, "eval__n_samples": 0}


def step_by_step(n_steps, compute_of, batch_of=counting_batch, **shape):
    """Train and give the losses."""
    fields = {"dim": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 24, "vocab_size": 50} | shape
    model = Transformer(ModelConfig(**fields))
    init_weights(model, 1)
    compute = compute_of(model)
    optimizer = build_optimizer(model, OptimConfig(name="muon", learning_rate=0.01))
    return [
        one_step(model, optimizer, batch_of(step), step=step + 1, compute=compute).loss
        for step in range(n_steps)
    ]


HALF = pytest.mark.parametrize("precision", ["bf16", "bf16-autocast", "fp16"])


def test_float32_runs_through_the_masters_themselves():
    model = make_model()
    assert Compute(model).model is model


@HALF
def test_half_precision_learns_as_float32_does(precision):
    """Five steps down a steep slope, each loss within two hundredths."""
    whole = step_by_step(5, Compute)
    half = step_by_step(5, lambda model: Compute(model, precision))
    assert whole[-1] < 0.9 * whole[0]
    assert half == pytest.approx(whole, rel=0.02)
    assert half[0] == pytest.approx(whole[0], rel=5e-4)
    assert half != whole


@HALF
@pytest.mark.parametrize("attention", ["sdpa", "blocked"])
def test_gradients_of_half_precision_point_where_those_of_float32_do(precision, attention):
    model, batch = make_model(attention=attention), ragged_batch()
    found = []
    for used in ("float32", precision):
        model.zero_grad()
        compute = Compute(model, used)
        accumulate_gradients(compute, batch, 46, 3, True)
        found.append({n: p.grad / compute.scale for n, p in model.named_parameters()})
    for name, wanted in found[0].items():
        ours = found[1][name]
        assert ours.dtype == torch.float32
        likeness = torch.cosine_similarity(ours.flatten(), wanted.flatten(), dim=0)
        assert likeness > 0.999, name
        assert ours.norm() == pytest.approx(float(wanted.norm()), rel=0.03), name


def test_gradients_of_micro_batches_are_added_in_float32():
    """Eight micro-batches: the sum of what each gives alone, which bfloat16 could not hold."""
    model, batch = make_model(), ragged_batch()
    compute = Compute(model, "bf16")
    parts = []
    for row in range(8):
        model.zero_grad()
        accumulate_gradients(compute, batch.rows(row, row + 1), 46, 1, True)
        parts.append(model.output.weight.grad.clone())
    model.zero_grad()
    accumulate_gradients(compute, batch, 46, 1, True)
    whole = model.output.weight.grad
    torch.testing.assert_close(whole, torch.stack(parts).sum(0), rtol=0, atol=1e-6)
    assert not torch.equal(whole, whole.bfloat16().float())


def test_the_copies_are_the_rounded_masters_after_every_update():
    model = make_model()
    compute = Compute(model, "bf16")
    with torch.no_grad():
        model.output.weight.add_(1e-3)
    compute.refresh()
    for weight, twin in zip(model.parameters(), compute.model.parameters(), strict=True):
        assert weight.dtype == torch.float32
        assert torch.equal(twin, weight.bfloat16())
    assert compute.model.angles.dtype == torch.float32  # positions keep all their bits


@HALF
def test_norms_softmax_and_loss_are_taken_in_float32(precision, monkeypatch):
    """Nothing is exponentiated in half precision."""
    seen = set()
    for name in ("softmax", "log_softmax", "rsqrt"):
        inner = getattr(torch, name)

        def spy(x, *args, inner=inner, name=name, **kwargs):
            result = inner(x, *args, **kwargs)
            seen.add((name, result.dtype))
            return result

        monkeypatch.setattr(torch, name, spy)
    step_by_step(1, lambda model: Compute(model, precision), attention="blocked")
    assert seen == {(n, torch.float32) for n in ("softmax", "log_softmax", "rsqrt")}


def test_checkpoints_of_a_bf16_run_hold_float32(tiny_config):
    folder = execute(tiny_config(**QUICK, train__precision="bf16", train__n_steps=2))
    for name in ("model", "optimizer"):
        tensors = load_file(folder / f"checkpoints/step-00000002/{name}.safetensors")
        assert {t.dtype for t in tensors.values()} == {torch.float32}
    weight = load_file(folder / "checkpoints/step-00000002/model.safetensors")["output.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())


def test_a_bf16_run_that_was_stopped_ends_with_the_same_bytes(tiny_config, tmp_path):
    """C16: masters and copies after a resume are those of a run that was not stopped."""
    fields = {**QUICK, "train__precision": "bf16", "eval__n_documents": 2}
    whole = outcome(execute(tiny_config(**fields, out=str(tmp_path / "whole"))))
    config = tiny_config(**fields)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(8))
    assert outcome(execute(config)) == whole


def test_precision_is_part_of_the_name_and_compiling_is_not(tiny_config):
    assert tiny_config(train__precision="bf16").run_id != tiny_config().run_id
    assert tiny_config(execution__compile="on").run_id == tiny_config().run_id


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch looks at its own
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "blocked"])
def test_compiled_layers_give_the_losses_of_the_plain_ones(precision, attention):
    """Document masks and ragged micro-batches in; one graph serves all layers of a shape."""
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def compiled(model):
        return Compute(model, precision, compiled=True, backend=counting)

    torch._dynamo.reset()
    plain = step_by_step(
        4, lambda model: Compute(model, precision), lambda _: ragged_batch(), attention=attention
    )
    found = step_by_step(4, compiled, lambda _: ragged_batch(), attention=attention)
    tolerance = 1e-5 if precision == "float32" else 5e-3  # bfloat16 is rounded at other places
    assert found == pytest.approx(plain, rel=tolerance)
    assert len(graphs) == 2  # micro-batches of 3 rows and of the 2 that are left
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_what_cannot_be_compiled_is_refused_with_the_option_to_set(tmp_path, monkeypatch):
    """Before the first step, and the model is left as it was."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kept"))
    model, batch = make_model(), ragged_batch()

    def broken(graph, inputs):
        raise RuntimeError("no such instruction")

    torch._dynamo.reset()
    compute = Compute(model, compiled=True, backend=broken)
    with pytest.raises(ConfigError, match=r"execution\.compile to 'off'"):
        compute.warm_up(lambda: accumulate_gradients(compute, batch, 46, 8, True), tmp_path)
    assert all(p.grad is None for p in model.parameters())
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "kept")
    torch._dynamo.reset()


def test_compiling_is_refused_where_it_would_change_the_run(tiny_config, monkeypatch):
    with pytest.raises(ConfigError, match="dropout"):
        execute(tiny_config(model__dropout=0.1, execution__compile="on"))
    monkeypatch.setattr(settle_module, "find_cpp_compiler", lambda: None)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler"):
        execute(tiny_config(execution__compile="on"))


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({}, "on"),
        ({"train__n_steps": 10}, "off"),
        ({"train__precision": "float32"}, "off"),
        ({"model__dropout": 0.1}, "off"),
    ],
)
def test_auto_compiles_long_bf16_runs_alone(fields, chosen, tiny_config, monkeypatch):
    """1e9 steps of a tiny model are a long run."""
    monkeypatch.setattr(settle_module, "find_cpp_compiler", lambda: "/usr/bin/c++")
    fields = {
        "train__precision": "bf16",
        "train__n_steps": 10**9,
        "model__vocab_size": 320,
    } | fields
    config = tiny_config(**fields)
    assert settle_compile(config, 1) == chosen
    assert settle_compile(config, 10**9) == "off"  # a share of each process is short
    monkeypatch.setattr(settle_module, "find_cpp_compiler", lambda: None)
    assert settle_compile(config, 1) == "off"


def test_the_compiler_is_the_one_that_cxx_names(monkeypatch, tmp_path):
    fake = tmp_path / "my-c++"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert find_cpp_compiler() is None
    monkeypatch.setenv("CXX", "my-c++")
    assert find_cpp_compiler() == str(fake)


@pytest.mark.slow
@pytest.mark.skipif(find_cpp_compiler() is None, reason="[compile] no C++ compiler here")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_compiled_run_gives_the_losses_of_a_plain_one(precision, tiny_config, tmp_path):
    """By inductor, from config to summary; the compiled code is kept beside the runs."""
    fields = {**QUICK, "train__precision": precision, "model__attention": "blocked"}
    losses = []
    for setting in ("off", "on"):
        folder = execute(
            tiny_config(**fields, execution__compile=setting, out=str(tmp_path / setting))
        )
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        losses.append([r["loss"] for r in map(json.loads, rows) if r["kind"] == "train"])
    tolerance = 1e-5 if precision == "float32" else 5e-3
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
def test_memory_that_ends_while_compiling_is_not_called_a_compiler_error(error, tmp_path):
    """The run explains it as it does at any other step."""

    def once():
        raise error

    with pytest.raises(type(error), match="memory"):
        Compute(make_model(), compiled=True).warm_up(once, tmp_path)
