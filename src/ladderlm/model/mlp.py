"""Position-wise MLPs: LLaMA's SwiGLU and the GELU block it replaced.

Owns both variants under Meta's parameter names; `build_mlp` picks one by config.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ladderlm.model.config import ModelConfig

__all__ = ["GeluMLP", "SwiGLU", "build_mlp"]


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


class GeluMLP(nn.Module):
    """w2(gelu(w1 x)), exact GELU. Source: Hendrycks and Gimpel 2016; shape as in GPT-2."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, ffn_dim, bias=False)
        self.w2 = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        return self.w2(F.gelu(self.w1(x)))  # type: ignore[no-any-return]


def build_mlp(config: ModelConfig) -> SwiGLU | GeluMLP:
    """Build the MLP that the config names, at its `ffn_width`."""
    variant = SwiGLU if config.mlp == "swiglu" else GeluMLP
    return variant(config.dim, config.ffn_width)
