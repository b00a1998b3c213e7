"""How weights are updated.

Owns `OptimConfig`: rule, rates and schedule. Builds nothing.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.config import added_later
from ladderlm.errors import ConfigError

__all__ = ["OptimConfig"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Update rule, its constants and the schedule of the learning rate."""

    name: Literal["adamw", "muon"] = "adamw"  # muon: on layer matrices; the rest stays with adamw
    learning_rate: float = 3e-3  # peak, reached at the end of the warm-up
    embedding_lr_scale: float = 1.0  # factor on the rate of the embedding table
    momentum: float = 0.95  # of muon
    beta1: float = 0.9  # of adamw, decay of the mean gradient
    beta2: float = 0.95  # of adamw, decay of the mean square
    eps: float = 1e-8  # of adamw, added to the root
    weight_decay: float = 0.1  # decoupled; on matrices only, never on norms or embeddings
    grad_clip: float | None = 1.0  # largest global gradient norm; None: no clipping
    schedule: Literal["cosine", "wsd", "linear"] = "cosine"  # wsd: stable, then linear decay
    warmup_fraction: float = 0.05  # of all steps
    warmup_steps: int | None = added_later(None)  # stands in for warmup_fraction if given
    decay_fraction: float = 0.3  # of all steps; the cooldown of wsd
    final_lr_fraction: float = 0.1  # of the peak, at the last step

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "embedding_lr_scale"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"optim.{name} = {getattr(self, name)}", "it must be positive")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name} = {getattr(self, name)}", "it lies in [0, 1)")
        for name in ("warmup_fraction", "decay_fraction", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"optim.{name} = {getattr(self, name)}", "it lies in [0, 1]")
        if self.weight_decay < 0:
            raise ConfigError(f"optim.weight_decay = {self.weight_decay}", "it is not negative")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ConfigError(
                f"optim.grad_clip = {self.grad_clip}", "it must be positive", "None turns it off"
            )
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ConfigError(f"optim.warmup_steps = {self.warmup_steps}", "it is not negative")
        shares = self.warmup_fraction + self.decay_fraction
        if self.schedule == "wsd" and self.warmup_steps is None and shares > 1:
            raise ConfigError(
                f"optim.warmup_fraction + optim.decay_fraction = {shares}",
                "warm-up and cooldown together cannot be longer than the run",
                "lower one of them",
            )
