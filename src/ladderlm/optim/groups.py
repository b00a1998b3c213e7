"""Split parameters into groups, and build the optimizer.

Owns which update rule, weight decay and learning rate each parameter gets, and the names of the
state that each rule keeps.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from ladderlm.optim.adamw import AdamW
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.muon import MuonAdamW

__all__ = ["STATE_OF_RULE", "build_optimizer", "parameter_groups", "set_learning_rate"]

STATE_OF_RULE = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "muon": ("momentum",)}
EMBEDDINGS, HEAD = ("tok_embeddings.", "value_embeddings."), "output.weight"


def parameter_groups(
    model: nn.Module, config: OptimConfig, owned: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Split trainable parameters into groups; embeddings and norm gains do not decay.

    Every parameter is in exactly one group, even if a tensor has two names. With Muon, the
    matrices inside the layers use it; embedding, head and gains use AdamW.

    Args:
        owned: names of the parameters to include; None for all.

    Returns:
        Groups with `params`, `names` (sorted), `rule`, `weight_decay` and `lr_scale`, the factor on
        the scheduled learning rate. Empty groups are left out.
    """
    members: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad and (owned is None or name in owned):
            members.setdefault(_group_of(name, parameter), []).append((name, parameter))
    groups = []
    for kind in ("matrices", "head", "embedding", "gains"):
        if kind not in members:
            continue
        group: dict[str, Any] = {
            "params": [p for _, p in members[kind]],
            "names": [n for n, _ in members[kind]],
            "rule": "muon" if config.name == "muon" and kind == "matrices" else "adamw",
            "weight_decay": config.weight_decay if kind in ("matrices", "head") else 0.0,
            "lr_scale": config.embedding_lr_scale if kind == "embedding" else 1.0,
        }
        if group["rule"] == "muon":
            group["momentum"] = config.momentum
        groups.append(group)
    return groups


def _group_of(name: str, parameter: nn.Parameter) -> str:
    if name.startswith(EMBEDDINGS):
        return "embedding"
    if name == HEAD:
        return "head"
    return "matrices" if parameter.ndim >= 2 else "gains"


def build_optimizer(
    model: nn.Module, config: OptimConfig, owned: Collection[str] | None = None
) -> AdamW:
    """Build the optimizer over the groups.

    AdamW: Loshchilov and Hutter 2017, algorithm 2, with decay scaled by the learning rate, using
    PyTorch's fused kernel on CPU and CUDA. Muon: see `muon.py`.
    """
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    rule = MuonAdamW if config.name == "muon" else AdamW
    return rule(
        parameter_groups(model, config, owned),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of each group: the scheduled rate times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]
