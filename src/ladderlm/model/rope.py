"""Rotary position embedding with interleaved pairs (2i, 2i + 1), as Meta stores q and k.

Owns the table of angles and the rotation. Source: Su et al. 2021, section 3.2.2.
"""

import torch
from torch import Tensor

from ladderlm.model.precision import widen

__all__ = ["rope_table", "rotate"]


def rope_table(head_dim: int, n_positions: int, theta: float) -> Tensor:
    """Give cos and sin of every angle.

    Args:
        head_dim: channels of a head, even.
        n_positions: positions 0 .. n_positions - 1.
        theta: base of the geometric row of wavelengths.

    Returns:
        (n_positions, head_dim / 2, 2), float32: cosine and sine of position * theta^(-2i/E).
    """
    exponents = torch.arange(0, head_dim, 2)[: head_dim // 2].float() / head_dim
    angles = torch.outer(torch.arange(n_positions).float(), 1.0 / (theta**exponents))
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each channel pair of every head by its position's angle, in float32.

    Args:
        x: (B, T, H, E), any float dtype.
        angles: (B, T, E / 2, 2) or (1, T, E / 2, 2), rows of `rope_table`.

    Returns:
        (B, T, H, E) in the dtype of x.
    """
    pairs = widen(x).unflatten(-1, (-1, 2))  # type: ignore[no-untyped-call]
    if not torch.compiler.is_compiling():  # one product instead of seven passes over memory
        turns = torch.view_as_complex(widen(angles)).unsqueeze(2)  # one angle for all heads
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns)
        return turned.flatten(-2).type_as(x)
    even, odd = pairs.unbind(-1)
    cos, sin = angles.unsqueeze(2).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).type_as(x)
