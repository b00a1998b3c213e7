"""Activations made again: the same bits, less memory, and FLOPs that are said."""

import pytest
import torch

from ladderlm.model.accounting import (
    count_params,
    recomputed_flops_per_token,
    train_flops_per_token,
)
from ladderlm.run.directory import RunDirectory
from ladderlm.run.execute import execute
from ladderlm.training.compute import Compute
from ladderlm.training.step import accumulate_gradients
from reference.checks import ragged_batch
from reference.hand_made import make_model
from reference.runs import lines_of

QUICK = {"eval__n_evals": 0, "eval__n_samples": 0, "eval__n_documents": 2}


@pytest.mark.parametrize("attention", ["sdpa", "blocked"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gradients_are_the_same_bits_and_less_is_kept(attention, precision):
    """Dropout on: the second pass draws what the first one drew."""
    found, kept = [], []
    for recompute in (False, True):
        model = make_model(n_layers=4, attention=attention, dropout=0.1).train()
        model.recompute = recompute
        sizes = {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(0)
        compute = Compute(model, precision)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            accumulate_gradients(compute, ragged_batch(), 46, 8, True)
        found.append([p.grad for p in model.parameters()])
        kept.append(sum(sizes.values()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1] < 0.7 * kept[0]


def test_a_run_that_recomputes_has_the_losses_and_the_name_of_one_that_does_not(
    tiny_config, tmp_path
):
    fields = {**QUICK, "train__n_steps": 3, "model__dropout": 0.1}
    configs = [
        tiny_config(**fields, execution__recompute=way, out=str(tmp_path / way))
        for way in ("none", "layers")
    ]
    assert configs[0].run_id == configs[1].run_id
    folders = [execute(config) for config in configs]
    assert lines_of(folders[0] / "metrics.jsonl") == lines_of(folders[1] / "metrics.jsonl")
    plain, again = (RunDirectory(f).metrics("train")[-1]["timing"] for f in folders)
    assert "hfu" not in plain
    assert 1 < again["hfu"] / again["mfu"] < 4 / 3


def test_recomputed_flops_are_a_forward_pass_without_the_head():
    config = make_model().config
    forward = train_flops_per_token(config, 64) / 3
    head = 2 * count_params(config).head
    assert recomputed_flops_per_token(config, 64) == pytest.approx(forward - head)
