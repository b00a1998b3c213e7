"""fp16: the scale of the loss, updates that are skipped, and what still stops a run."""

import itertools
import json
import math

import pytest
import torch

from ladderlm.errors import ConfigError, TrainingError
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.run import resolve as resolve_module
from ladderlm.run.execute import execute
from ladderlm.run.resolve import resolve
from ladderlm.training import loss_scale
from ladderlm.training.compute import Compute
from ladderlm.training.loss_scale import LossScale
from reference.checks import one_step, ragged_batch
from reference.hand_made import make_model
from reference.runs import BrokenError, break_at, lines_of, outcome

QUICK = {"eval__n_evals": 0, "eval__n_samples": 0, "eval__n_documents": 2}


def fp16_step(model, optimizer, compute, step=1):
    batch = ragged_batch()
    return one_step(model, optimizer, batch, step=step, compute=compute)


def test_the_scale_moves_as_pytorchs_own_does(monkeypatch):
    """Over a row of overflows and good updates, beside torch.amp.GradScaler."""
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    ours = LossScale(2.0**10)
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    drawn = torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.25
    for overflow in drawn.tolist():
        theirs.scale(weight.sum() * 0.0)
        weight.grad = torch.tensor([math.inf if overflow else 1.0])
        theirs.step(optimizer)
        theirs.update()
        if overflow:
            assert ours.skip()
        else:
            ours.note_good()
        assert ours.value == theirs.get_scale()
    assert ours.n_skipped == int(drawn.sum()) > 5


def test_an_update_that_overflows_is_skipped_and_the_next_ones_are_made():
    model = make_model()
    optimizer, compute = build_optimizer(model, OptimConfig()), Compute(model, "fp16")
    compute.loss_scale.value = 2.0**24  # gradients of fp16 end at 65,504
    before = [p.detach().clone() for p in model.parameters()]
    done = fp16_step(model, optimizer, compute)
    assert done.skipped
    assert math.isfinite(done.loss)
    assert (compute.scale, compute.loss_scale.n_skipped) == (2.0**23, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not optimizer.state
    while fp16_step(model, optimizer, compute).skipped:
        pass
    assert 1 < compute.scale < 2.0**23
    assert not torch.equal(before[0], next(model.parameters()))


def test_what_no_scale_can_mend_stops_the_run():
    """T09: a loss that is not finite at once, an infinite gradient when the scale is 1."""
    model = make_model()
    optimizer, compute = build_optimizer(model, OptimConfig()), Compute(model, "fp16")
    hook = compute.model.norm.weight.register_hook(lambda g: g * math.inf)
    for _ in range(16):
        assert fp16_step(model, optimizer, compute).skipped
    assert compute.scale == 1
    with pytest.raises(TrainingError, match="gradient norm"):
        fp16_step(model, optimizer, compute)
    hook.remove()
    compute = Compute(model, "fp16")
    with torch.no_grad():
        model.output.weight[3, 4] = math.nan
    with pytest.raises(TrainingError, match="loss nan"):
        fp16_step(model, optimizer, compute)


@pytest.mark.parametrize("broken_at", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_an_fp16_run_that_was_stopped_ends_with_the_same_bytes(
    broken_at, tiny_config, tmp_path, monkeypatch
):
    """C16: while every update is still skipped, and after the scale has begun to rise."""
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    monkeypatch.setattr(LossScale.__init__, "__defaults__", (2.0**23, 0, 0))
    fields = {**QUICK, "train__precision": "fp16", "checkpoint__every_steps": 2}
    whole = execute(tiny_config(**fields, out=str(tmp_path / "whole")))
    with pytest.raises(BrokenError):
        execute(tiny_config(**fields), observe=break_at(broken_at))
    assert outcome(execute(tiny_config(**fields))) == outcome(whole)
    rows = [row for row in lines_of(whole / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[0]["n_skipped"] == 1
    assert rows[0]["grad_norm"] is None
    assert rows[-1]["n_skipped"] < 12
    scales = [row["loss_scale"] for row in rows]
    assert any(b == 2 * a for a, b in itertools.pairwise(scales))
    state = whole / "checkpoints/step-00000012/state.json"
    assert json.loads(state.read_text())["loss_scale"]["n_skipped"] == rows[-1]["n_skipped"]


@pytest.mark.parametrize(("flags", "chosen"), [(True, "bf16"), (False, "float32")])
def test_auto_follows_the_instructions_of_the_cpu_and_is_resolved_before_the_name(
    flags, chosen, tiny_config, monkeypatch
):
    monkeypatch.setattr(resolve_module, "has_bfloat16", lambda device: flags)
    resolved = resolve(tiny_config(train__precision="auto"))
    assert resolved.train.precision == chosen
    assert resolved.run_id == resolve(tiny_config(train__precision=chosen)).run_id


@pytest.mark.parametrize(
    ("asked", "has_bf16", "chosen"),
    [
        ("auto", True, "bf16"),
        ("auto", False, "fp16"),
        ("bf16", False, None),
        ("fp16", True, "fp16"),
    ],
)
def test_an_older_gpu_gets_fp16_and_refuses_bf16(asked, has_bf16, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    if chosen is None:
        with pytest.raises(ConfigError, match="Tesla T4 has no bfloat16"):
            resolve_module.resolve_precision(asked, "cuda")
    else:
        assert resolve_module.resolve_precision(asked, "cuda") == chosen
