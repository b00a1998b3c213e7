"""Root-mean-square normalisation, in Meta's order of operations.

Owns `RMSNorm`. Source: Zhang and Sennrich 2019; order of casts as in facebookresearch/llama.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ladderlm.model.precision import widen

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """Normalisation of the last axis to unit mean square, times a learned gain.

    The statistics are float32. The result is cast back to the input's dtype *before* the gain, so
    that half precision is equal to Meta's to the bit.

    Args:
        dim: size of the last axis.
        eps: added to the mean square, under the root.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., dim) of any float dtype; the result has the same shape and dtype."""
        return _normalise(x, self.eps) * self.weight


def _normalise(x: Tensor, eps: float) -> Tensor:
    """Scale the last axis to unit mean square."""
    if torch.compiler.is_compiling():  # it fuses plain operations better
        x32 = widen(x)
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).type_as(x)
    return _Normalise.apply(x, eps)  # type: ignore[no-any-return, no-untyped-call]


class _Normalise(torch.autograd.Function):
    """y = x r with r = (mean x^2 + eps)^-1/2; dx = r (dy - y mean(y dy)), in fewer passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        x32 = widen(x)
        root = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
        scaled = (x32 * root).type_as(x)
        ctx.save_for_backward(scaled, root)
        return scaled

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_scaled: Tensor) -> tuple[Tensor, None]:
        scaled, root = ctx.saved_tensors
        slope, y = widen(d_scaled), widen(scaled)
        shared = (slope * y).mean(-1, keepdim=True)
        return torch.addcmul(slope, y, shared, value=-1).mul_(root).type_as(d_scaled), None
