"""Position-wise MLPs: LLaMA's SwiGLU, and two kinds with two matrices.

Owns the variants under Meta's parameter names; `build_mlp` chooses one by the config.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ladderlm.model.config import ModelConfig

__all__ = ["ACTIVATIONS", "PlainMLP", "SwiGLU", "build_mlp"]


def squared_relu(x: Tensor) -> Tensor:
    """Return max(x, 0)^2, elementwise. Source: So et al. 2021 (Primer), section 4.2."""
    return F.relu(x).square()


# gelu: exact, Hendrycks and Gimpel 2016; shape of the block as in GPT-2
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu2": squared_relu}


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x). Source: Shazeer 2020, equation 6, without biases."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, ffn_dim, bias=False)
        self.w2 = nn.Linear(ffn_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class PlainMLP(nn.Module):
    """w2(f(w1 x)) for one of `ACTIVATIONS`."""

    def __init__(self, dim: int, ffn_dim: int, activation: str) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, ffn_dim, bias=False)
        self.w2 = nn.Linear(ffn_dim, dim, bias=False)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        return self.w2(self.activation(self.w1(x)))  # type: ignore[no-any-return]


def build_mlp(config: ModelConfig) -> SwiGLU | PlainMLP:
    """Build the MLP that the config names, with hidden width `ffn_width`."""
    if config.mlp == "swiglu":
        return SwiGLU(config.dim, config.ffn_width)
    return PlainMLP(config.dim, config.ffn_width, config.mlp)
