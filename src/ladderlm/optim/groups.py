"""Which parameter is updated how.

Owns the split into groups with and without weight decay, and the optimizer built from them.
"""

import torch
from torch import nn
from torch.optim import AdamW

from ladderlm.optim.config import OptimConfig

__all__ = ["build_optimizer", "parameter_groups", "set_learning_rate"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split trainable parameters: matrices decay; embeddings and norm gains do not.

    Every parameter is in exactly one group, once, even where a tensor has two names.

    Returns:
        Two groups with `params`, `names` and `weight_decay`, in the order of the names.
    """
    named = sorted((n, p) for n, p in model.named_parameters() if p.requires_grad)
    decays = {n for n, p in named if p.ndim >= 2 and n != "tok_embeddings.weight"}
    return [
        {
            "params": [p for n, p in named if (n in decays) == decaying],
            "names": [n for n, _ in named if (n in decays) == decaying],
            "weight_decay": weight_decay if decaying else 0.0,
        }
        for decaying in (True, False)
    ]


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """Build AdamW over the groups. Source: Loshchilov and Hutter 2017, algorithm 2.

    PyTorch's fused kernel is used on CPU and CUDA; decay is scaled by the learning rate.
    """
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    return AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the same rate in every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
