"""Root-mean-square normalisation, in Meta's order of operations.

Owns `RMSNorm`. Source: Zhang and Sennrich 2019; order of casts as in facebookresearch/llama.
"""

import torch
from torch import Tensor, nn

from ladderlm.model.precision import widen

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """Scale the last axis to unit mean square, then by a learned gain.

    The statistics are taken in float32; the result is cast back to the input's dtype *before*
    the gain, which is what makes half precision equal to Meta's to the bit.

    Args:
        dim: size of the last axis.
        eps: added to the mean square, inside the root.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., dim), any float dtype; the result has the same shape and dtype."""
        x32 = widen(x)
        scaled = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return scaled.type_as(x) * self.weight
