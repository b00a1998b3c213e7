"""Rotary position embedding with interleaved pairs (2i, 2i + 1), as Meta stores q and k.

Owns the frequencies with LLaMA 3.1's scaling, the table of angles and the rotation. Source: Su et
al. 2021, section 3.2.2.
"""

import math

import torch
from torch import Tensor

from ladderlm.model.config import RopeScaling
from ladderlm.model.precision import widen

__all__ = ["apply_rotary", "rope_frequencies", "rope_table"]


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Return the rotation per position of each channel pair, (head_dim / 2,), float32.

    The frequencies are theta^(-2i/E). With `scaling`, a pair whose wave is longer than
    original_seq_len / low_freq_factor rotates `factor` times slower, and one whose wave is shorter
    than original_seq_len / high_freq_factor stays unchanged. Between the two the frequency is
    blended linearly in original_seq_len / wavelength. Source: the published model code of Llama
    3.1, apply_scaling.
    """
    exponents = torch.arange(0, head_dim, 2)[: head_dim // 2].float() / head_dim
    plain = 1.0 / (theta**exponents)
    if scaling is None:
        return plain
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / plain
    share = (scaling.original_seq_len / wavelengths - low) / (high - low)
    slowed = plain / scaling.factor
    blended = (1 - share) * plain / scaling.factor + share * plain
    scaled = torch.where(wavelengths > scaling.original_seq_len / low, slowed, blended)
    return torch.where(wavelengths < scaling.original_seq_len / high, plain, scaled)


def rope_table(
    head_dim: int,
    n_positions: int,
    theta: float,
    scaling: RopeScaling | None = None,
    polar: bool = False,
) -> Tensor:
    """Return cosine and sine of position * frequency, (n_positions, head_dim / 2, 2), float32.

    Args:
        polar: compute both by `torch.polar`, as Meta's code does. Its last bit differs from that
            of `cos` and `sin`, which training uses.
    """
    frequencies = rope_frequencies(head_dim, theta, scaling)
    angles = torch.outer(torch.arange(n_positions).float(), frequencies)
    if polar:
        return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def apply_rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate each channel pair of every head by the angle of its position, in float32.

    Args:
        x: (B, T, H, E), any float dtype; the result has the same shape and dtype.
        angles: (B or 1, T, E / 2, 2), rows of `rope_table`.
    """
    pairs = widen(x).unflatten(-1, (-1, 2))  # type: ignore[no-untyped-call]
    if not torch.compiler.is_compiling():  # one multiplication instead of seven passes
        rotations = torch.view_as_complex(widen(angles)).unsqueeze(2)  # the same for all heads
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * rotations)
        return rotated.flatten(-2).type_as(x)
    even, odd = pairs.unbind(-1)
    cos, sin = angles.unsqueeze(2).unbind(-1)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).type_as(x)
