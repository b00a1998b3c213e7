"""AdamW: PyTorch's to the bit, and its compiler stays where it is."""

import subprocess

import torch

from ladderlm.optim.adamw import AdamW

QUIET = """
import sys, torch
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
model = torch.nn.Linear(4, 4)
for name in ("adamw", "muon"):
    optimizer = build_optimizer(model, OptimConfig(name=name))
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
print("torch._dynamo" in sys.modules)
"""


def trained(rule, n_steps=4):
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "lr": 0.3}]
    optimizer = rule(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for _ in range(n_steps):
        model.zero_grad()
        model(torch.randn(7, 5)).square().sum().backward()
        optimizer.step()
    return [*model.parameters(), *(s for p in optimizer.state.values() for s in p.values())]


def test_updates_and_states_are_those_of_pytorch_to_the_bit():
    ours, theirs = trained(AdamW), trained(torch.optim.AdamW)
    assert len(ours) == 8
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_gradients_stay_on_after_an_update_and_off_during_it():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([weight], lr=0.1)
    seen = []

    def closure():
        seen.append(torch.is_grad_enabled())
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2
    assert seen == [True]
    assert torch.is_grad_enabled()
    assert weight.requires_grad


def test_an_update_loads_no_compiler(python, child_environment):
    """It would take every run of a ladder 2.5 seconds and 75 MB."""
    command = [python, "-c", QUIET]
    done = subprocess.run(command, env=child_environment, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
