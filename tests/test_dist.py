"""Sums over processes, and losses weighted by real tokens."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from ladderlm.dist import Processes, is_first_process
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.optim.owners import owners_of
from ladderlm.training.compute import Compute
from reference.checks import one_step, ragged_batch, update
from reference.hand_made import make_batch, make_model

WORKER = """
import json, sys
import numpy as np
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from ladderlm.dist import Processes, is_first_process
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.training.compute import HALF_COPIES, Compute
from ladderlm.training.sharding import Sharding
from reference.checks import one_step, ragged_batch
from reference.hand_made import make_batch, make_model

processes = Processes.join()
rank = processes.rank
found = {"first": processes.first, "first by environment": is_first_process()}
tensors = [torch.tensor([1.0 + rank, 2.0]), torch.full((2, 2), float(10 ** rank))]
processes.sum_tensors(tensors)
processes.sum_tensors([])
found["tensors"] = [t.tolist() for t in tensors]
found["array"] = processes.sum_array(np.array([0.1, 1.0 + rank])).tolist()
found["agree"] = [processes.agree(0), processes.agree(15 * rank)]
found["share"] = processes.share({"from": rank})
processes.wait()
rows = [[[1, 5, 9, 12, 30, 2]]] if rank == 0 else [[[1, 2]]]
uneven = make_batch(rows, 8)
model = make_model()
done = one_step(
    model, build_optimizer(model, OptimConfig()), uneven, n_targets=6, micro_batch_seqs=1,
    compute=Compute(model, sharding=Sharding(processes)),
)
found["targets"] = uneven.n_targets
found["loss"], found["norm"] = done.loss, done.grad_norm
found["weights"] = {n: p.flatten().tolist() for n, p in model.named_parameters()}
empty = make_batch([rows[0]], 8).rows(0, 1 - rank)
model = make_model()
done = one_step(
    model, build_optimizer(model, OptimConfig()), empty, n_targets=5, micro_batch_seqs=1,
    compute=Compute(model, sharding=Sharding(processes)),
)
found["loss of one full and one empty process"] = done.loss
found["gather"] = processes.gather(rank * 10)
# 8 ragged rows, 5 and 3 of them, two at a time: three passes and two
own = ragged_batch().rows(5 * rank, 5 + 3 * rank)
for kind in ("none", "optimizer", "weights"):
    for rule in ("adamw", "muon"):
        for precision in ("float32", "bf16"):
            model, sharding = make_model(), Sharding(processes, kind)
            sharding.prepare(model, HALF_COPIES.get(precision))
            config = OptimConfig(name=rule, learning_rate=0.01)
            optimizer = build_optimizer(model, config, sharding.owned)
            compute = Compute(model, precision, sharding=sharding)
            found[f"{kind} {rule} {precision}"] = [
                one_step(
                    model, optimizer, own, n_targets=46, step=step, micro_batch_seqs=2,
                    compute=compute,
                ).loss
                for step in range(1, 4)
            ]
    found[f"{kind} kept"] = sum(t.numel() for t, _ in sharding.own_state(optimizer).values())
    with sharding.whole(model) as everything:
        found[f"{kind} norm"] = float(everything.output.weight.detach().norm())
model, sharding = make_model(**json.loads(sys.argv[2])), Sharding(processes, "weights")
model.recompute = True
sharding.prepare(model, None)
done = one_step(
    model, build_optimizer(model, OptimConfig(name="muon")), own, n_targets=46, micro_batch_seqs=2,
    compute=Compute(model, sharding=sharding),
)
found["all parts"] = [done.loss, done.grad_norm]
processes.leave()
print(json.dumps(found))
"""


# What shares a tensor, or lies outside the layers, or is shorter than there are processes.
ALL_PARTS = {"value_embeddings": 1, "qk_norm": True, "tied_head": True, "n_kv_heads": 2}


@pytest.fixture(scope="module")
def found():
    """What each of two processes saw."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tests = os.path.dirname(__file__)
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, tests, json.dumps(ALL_PARTS)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    results = []
    try:
        for child in children:
            text, errors = child.communicate(timeout=60)
            assert child.returncode == 0, errors[-3000:]
            results.append(json.loads(text))
    finally:
        for child in children:
            child.kill()
            child.wait()
    return results


def test_sums_are_the_same_on_both_processes(found):
    for own in found:
        assert own["tensors"] == [[3.0, 4.0], [[11.0, 11.0], [11.0, 11.0]]]
        assert own["array"] == [0.2, 3.0]


def test_a_signal_of_one_process_is_known_to_both(found):
    """C05: all stop after the same step."""
    assert [own["agree"] for own in found] == [[0, 15], [0, 15]]


def test_the_first_process_shares_its_value(found):
    assert [own["share"] for own in found] == [{"from": 0}] * 2
    assert [own["gather"] for own in found] == [[0, 10]] * 2
    assert [own["first"] for own in found] == [True, False]
    assert [own["first by environment"] for own in found] == [True, False]


def test_five_and_one_real_tokens_equal_one_process_with_six(found):
    """T04: divided by the global count; the mean of two means would be another number."""
    batch = make_batch([[[1, 5, 9, 12, 30, 2]], [[1, 2]]], 8)
    assert [own["targets"] for own in found] == [5, 1]
    model = make_model()
    done = update(model, batch, micro_batch_seqs=1)
    halves = [update(make_model(), batch.rows(i, i + 1)).loss for i in (0, 1)]
    assert done.loss != pytest.approx(sum(halves) / 2, rel=1e-3)
    for own in found:
        assert own["loss"] == pytest.approx(done.loss, rel=1e-7)
        assert own["norm"] == pytest.approx(done.grad_norm, rel=1e-5)
        for name, weight in model.named_parameters():
            # float32 sums in another order; AdamW's first step is near the sign of a gradient
            found_weight = np.array(own["weights"][name])
            np.testing.assert_allclose(
                found_weight, weight.detach().flatten().numpy(), rtol=0, atol=2e-5, err_msg=name
            )


def test_both_processes_end_with_the_same_weights(found):
    """T04: to the bit, or they would drift apart."""
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["loss"] == found[1]["loss"]


def test_a_process_without_rows_takes_part(found):
    """T04: fewer rows than processes."""
    loss = update(make_model(), make_batch([[[1, 5, 9, 12, 30, 2]]], 8)).loss
    for own in found:
        assert own["loss of one full and one empty process"] == pytest.approx(loss, rel=1e-7)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("rule", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["none", "optimizer", "weights"])
def test_state_cut_over_processes_gives_the_losses_of_one(kind, rule, precision, found):
    """T04: uneven tokens and passes; whole matrices for Muon; rounding of another order alone."""
    model = make_model()
    optimizer = build_optimizer(model, OptimConfig(name=rule, learning_rate=0.01))
    compute, batch = Compute(model, precision), ragged_batch()
    wanted = [
        one_step(model, optimizer, batch, step=step, micro_batch_seqs=2, compute=compute).loss
        for step in (1, 2, 3)
    ]
    tolerance = 1e-6 if precision == "float32" else 1e-3
    for own in found:
        assert own[f"{kind} {rule} {precision}"] == pytest.approx(wanted, rel=tolerance)
    assert wanted[2] < wanted[0]


def test_fsdp_cuts_every_part_of_a_model_and_recomputes(found):
    """Tied head, tables of values, normed heads; loss and gradient of one process."""
    model, batch = make_model(**ALL_PARTS), ragged_batch()
    done = update(model, batch, micro_batch_seqs=2)
    for own in found:
        assert own["all parts"] == pytest.approx([done.loss, done.grad_norm], rel=1e-5)


def test_each_process_keeps_a_share_of_the_state(found):
    """Of the last of the runs above; the norm is of a weight that was gathered for scoring."""
    shares = {kind: [own[f"{kind} kept"] for own in found] for kind in ("optimizer", "weights")}
    whole = found[0]["none kept"]
    for kind, kept in shares.items():
        assert sum(kept) == pytest.approx(whole, rel=0.01), kind
        assert max(kept) < 0.7 * whole, kind
    norms = {round(own[f"{kind} norm"], 4) for own in found for kind in ("none", *shares)}
    assert len(norms) == 1


def test_owners_share_the_numbers_evenly_and_every_parameter_has_one():
    model = make_model(n_layers=6)
    for world_size in (1, 2, 3, 8):
        owners = owners_of(model, world_size)
        loads = [0] * world_size
        for name, parameter in model.named_parameters():
            loads[owners[name]] += parameter.numel()
        assert min(loads) > 0
        assert max(loads) - min(loads) <= max(p.numel() for p in model.parameters())


def test_a_process_alone_sums_to_itself():
    processes = Processes.join()
    tensor, array = torch.tensor([1.5]), np.array([2.5])
    processes.sum_tensors([tensor])
    assert tensor.tolist() == [1.5]
    assert processes.sum_array(array) is array
    assert (processes.agree(9), processes.share("x")) == (9, "x")
    assert processes.first
    assert is_first_process()
    processes.wait()
    processes.leave()
