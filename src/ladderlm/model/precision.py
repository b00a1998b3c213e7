"""The dtype of sums, and how exactly float32 matrices are multiplied.

Owns the rule that statistics, angles and losses are taken in float32, or float64 where the model
is float64 (tests and the exact meter), and the switch and the probe of float32 products.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

__all__ = ["FLOAT32_ERROR", "Float32Matmul", "float32_matmul", "float32_matmul_error", "widen"]

Float32Matmul = Literal["highest", "medium"]
# Products of 512 terms in float32 are off by 2e-7 to 5e-7, in TF32 by 3e-4, in bfloat16 by 3e-3.
FLOAT32_ERROR = 1e-6
_PROBE_SIZE = 512


def widen(x: Tensor) -> Tensor:
    """Cast half precision up to float32; float32 and float64 stay as they are."""
    return x if x.dtype == torch.float64 else x.float()


@contextmanager
def float32_matmul(setting: Float32Matmul) -> Iterator[None]:
    """Multiply float32 matrices by `setting` of `torch.set_float32_matmul_precision` meanwhile."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def float32_matmul_error(setting: Float32Matmul) -> float:
    """Return the relative error (Frobenius norm) of one product on the CPU against float64."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, _PROBE_SIZE, _PROBE_SIZE, generator=generator)
    exact = a.double() @ b.double()
    with float32_matmul(setting):
        found = a @ b
    return float((found.double() - exact).norm() / exact.norm())
