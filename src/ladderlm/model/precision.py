"""The dtype of sums.

Owns the one rule: statistics, angles and losses are taken in float32, or float64 where the model
is float64 (tests and the exact meter).
"""

import torch
from torch import Tensor

__all__ = ["widen"]


def widen(x: Tensor) -> Tensor:
    """Cast half precision up to float32; float32 and float64 stay as they are."""
    return x if x.dtype == torch.float64 else x.float()
