"""Dtype of sums, and precision of float32 matrix multiplication.

Owns the rule that statistics, angles and losses are float32, or float64 for a float64 model (tests
and the exact meter), and the setting and the measurement of float32 matrix multiplication.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

__all__ = ["FLOAT32_ERROR", "Float32Matmul", "float32_matmul", "float32_matmul_error", "widen"]

Float32Matmul = Literal["highest", "medium"]
# The error over 512 terms is 2e-7 to 5e-7 in float32, 3e-4 in TF32 and 3e-3 in bfloat16.
FLOAT32_ERROR = 1e-6
_PROBE_SIZE = 512


def widen(x: Tensor) -> Tensor:
    """Cast half precision to float32; float32 and float64 stay unchanged."""
    return x if x.dtype == torch.float64 else x.float()


@contextmanager
def float32_matmul(setting: Float32Matmul) -> Iterator[None]:
    """Set the precision of float32 matrix multiplication inside a `with` block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def float32_matmul_error(setting: Float32Matmul) -> float:
    """Return the relative error (Frobenius norm) of a matrix product on the CPU, from float64."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, _PROBE_SIZE, _PROBE_SIZE, generator=generator)
    exact = a.double() @ b.double()
    with float32_matmul(setting):
        found = a @ b
    return float((found.double() - exact).norm() / exact.norm())
