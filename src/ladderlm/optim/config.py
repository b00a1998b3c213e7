"""Options of the optimizer.

Owns `OptimConfig`: update rule, constants and schedule.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.changes import MetaChange
from ladderlm.config import added_later, require

__all__ = ["OPTIM_CHANGES", "OptimConfig"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Update rule, its constants and the schedule of the learning rate."""

    name: Literal["adamw", "muon"] = "adamw"
    """Update rule. adamw: Loshchilov and Hutter 2019 for all weights. muon: Jordan et al. 2024 for
    the matrices inside the layers, and adamw for all other weights."""
    learning_rate: float = 3e-3
    """Peak of the learning rate, reached at the end of the warm-up."""
    embedding_lr_scale: float = 1.0
    """Factor on the learning rate of the embedding tables."""
    momentum: float = 0.95
    """Decay of muon's running sum of gradients, per update."""
    beta1: float = 0.9
    """Decay of adamw's running mean of gradients, per update."""
    beta2: float = 0.95
    """Decay of adamw's running mean of squared gradients, per update."""
    eps: float = 1e-8
    """Number added to the root in adamw's denominator."""
    weight_decay: float = 0.1
    """Decoupled weight decay of the matrices of the layers and of the head. Norms and embeddings do
    not decay."""
    grad_clip: float | None = 1.0
    """Largest global norm of the gradient. A larger gradient is scaled down to it. None: no
    clipping."""
    schedule: Literal["cosine", "wsd", "linear"] = "cosine"
    """Learning rate after the warm-up. cosine: half a cosine period (Loshchilov and Hutter 2016,
    equation 5). wsd: constant, then a linear cooldown (Hägele et al. 2024, 2405.18392). linear: a
    straight line (Bergsma et al. 2025, 2502.15938)."""
    warmup_fraction: float = 0.05
    """Length of the warm-up, as a fraction of all updates. The rate rises linearly."""
    warmup_steps: int | None = added_later(None)
    """Length of the warm-up in updates, which replaces `warmup_fraction`. Default: use
    `warmup_fraction`."""
    decay_fraction: float = 0.3
    """Length of the cooldown of the schedule wsd, as a fraction of all updates."""
    final_lr_fraction: float = 0.1
    """Learning rate at the last update, as a fraction of the peak."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "embedding_lr_scale"):
            value = getattr(self, name)
            require(f"optim.{name}", value, value > 0, "be positive")
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(f"optim.{name}", value, 0 <= value < 1, "be at least 0 and below 1")
        for name in ("warmup_fraction", "decay_fraction", "final_lr_fraction"):
            value = getattr(self, name)
            require(f"optim.{name}", value, 0 <= value <= 1, "be between 0 and 1")
        decay, warmup, clip = self.weight_decay, self.warmup_steps, self.grad_clip
        require("optim.weight_decay", decay, decay >= 0, "be at least 0")
        require("optim.grad_clip", clip, clip is None or clip > 0, "be positive")
        require("optim.warmup_steps", warmup, warmup is None or warmup >= 0, "be at least 0")
        shares = self.warmup_fraction + self.decay_fraction
        valid = self.schedule != "wsd" or warmup is not None or shares <= 1
        name = "optim.warmup_fraction + optim.decay_fraction"
        require(name, shares, valid, "be at most 1 with the schedule wsd", "lower one of them")


OPTIM_CHANGES = (
    MetaChange(
        "Optimizer and schedule",
        "none",
        "with a linear warm-up, clipped gradients and decoupled weight decay",
        "optim/",
        {
            "optim.name": {"adamw": "for all weights", "muon": "for the matrices of the layers"},
            "optim.schedule": {
                "cosine": "half a cosine period",
                "wsd": "constant, then a linear cooldown",
                "linear": "a straight line",
            },
        },
    ),
)
