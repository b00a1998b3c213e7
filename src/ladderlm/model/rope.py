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
    """Return the angle that each channel pair gains per position.

    With `scaling`, a pair whose wave is longer than original_seq_len / low_freq_factor turns
    `factor` times slower, one shorter than original_seq_len / high_freq_factor stays, and between
    the two the frequency is blended linearly in original_seq_len / wavelength. Source: the
    published model code of Llama 3.1, apply_scaling.

    Returns:
        (head_dim / 2,), float32: theta^(-2i/E), scaled.
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
    """Return cos and sin of every angle.

    Args:
        head_dim: channels of a head, even.
        n_positions: positions 0 .. n_positions - 1.
        theta: base of the geometric row of wavelengths.
        scaling: of LLaMA 3.1; None: none.
        polar: take both from `torch.polar`, as Meta's code does; its last bit is another than that
            of `cos` and `sin`, with which runs are trained.

    Returns:
        (n_positions, head_dim / 2, 2), float32: cosine and sine of position * frequency.
    """
    frequencies = rope_frequencies(head_dim, theta, scaling)
    angles = torch.outer(torch.arange(n_positions).float(), frequencies)
    if polar:
        return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def apply_rotary(x: Tensor, angles: Tensor) -> Tensor:
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
