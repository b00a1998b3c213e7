"""The same steps on a GPU: run with `pytest -m gpu` on a machine that has one."""

import json

import pytest
import torch

from ladderlm.model.attention import attend_sdpa, document_mask
from ladderlm.model.config import ModelConfig
from ladderlm.model.flex import attend_flex, plan_flex
from ladderlm.model.init import init_weights
from ladderlm.model.transformer import Transformer
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.run.execute import execute
from ladderlm.run.resolve import resolve_precision
from ladderlm.training.compute import Compute
from reference.checks import one_step, ragged_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
QUICK = {"eval__n_evals": 1, "eval__n_samples": 1, "eval__n_documents": 3}


def losses_on(device, precision="float32", compiled=False, recompute=False, **shape):
    fields = {"dim": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "vocab_size": 50} | shape
    model = Transformer(ModelConfig(**fields))
    init_weights(model, 1)
    model.to(device).train()
    model.recompute = recompute
    compute = Compute(model, precision, compiled)
    optimizer = build_optimizer(model, OptimConfig(name="muon", learning_rate=0.01))
    batch = ragged_batch()
    return [
        one_step(model, optimizer, batch, step=step, compute=compute).loss for step in range(1, 6)
    ]


def test_float32_steps_are_those_of_the_cpu():
    """float32 products on both (TF32 is off): other orders of addition."""
    assert losses_on("cuda") == pytest.approx(losses_on("cpu"), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast", "fp16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_half_precision_learns_as_float32_does(precision, recompute):
    if precision != "fp16" and resolve_precision("auto", "cuda") != "bf16":
        pytest.skip("this GPU has no bfloat16")
    found = losses_on("cuda", precision, recompute=recompute)
    assert found == pytest.approx(losses_on("cpu"), rel=0.02)


@pytest.mark.parametrize("attention", ["sdpa", "flex"])
def test_compiled_layers_give_the_losses_of_plain_ones(attention):
    found = losses_on("cuda", compiled=True, attention=attention)
    assert found == pytest.approx(losses_on("cpu"), rel=1e-3)


@pytest.mark.parametrize("n_kv_heads", [2, 4])
def test_flex_attention_is_that_of_the_kernel_forward_and_backward(n_kv_heads):
    """T08: two documents and padding."""
    generator = torch.Generator().manual_seed(0)
    segments = torch.tensor([[0] * 100 + [1] * 120 + [-1] * 36]).cuda()
    shapes = [(1, 4, 256, 64), (1, n_kv_heads, 256, 64), (1, n_kv_heads, 256, 64)]
    found = []
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    for attend in (
        lambda q, k, v: attend_flex(q, k, v, plan_flex(segments, 256, q.device)),
        lambda q, k, v: attend_sdpa(q, k, v, document_mask(segments)),
    ):
        inputs = [t.cuda().requires_grad_() for t in drawn]
        mixed = attend(*inputs)
        mixed[:, :, :220].sum().backward()
        found.append([mixed[:, :, :220].detach(), *(t.grad for t in inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_run_on_the_gpu_ends_and_says_how_fast_it_was(tiny_config):
    config = tiny_config(**QUICK, execution__device="cuda", train__precision="auto")
    folder = execute(config)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["timing"]["mfu"] > 0
    assert summary["timing"]["peak_memory_bytes"] > 0
