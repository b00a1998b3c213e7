"""LLaMA 2's forward pass in Meta's order of operations and casts, as functions of the weights.

Written from the description of that order (docs/interop.md), for comparison to the bit.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ladderlm.model.config import ModelConfig

__all__ = ["logits_in_metas_order"]


def normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Root mean square in float32, cast back before the gain."""
    wide = x.float()
    return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)).to(x.dtype) * gain


def turned(x: Tensor, table: Tensor) -> Tensor:
    """Multiply (B, T, H, E) as complex numbers by (T, E / 2)."""
    numbers = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(numbers * table[None, :, None, :]).flatten(3).to(x.dtype)


def logits_in_metas_order(
    weights: dict[str, Tensor], config: ModelConfig, tokens: Tensor
) -> Tensor:
    """Return float32 logits (B, T, V) in the dtype of the weights until the end."""
    n_rows, n_positions = tokens.shape
    width, n_repeats = config.head_dim, config.n_heads // config.kv_heads
    exponents = torch.arange(0, width, 2).float() / width
    angles = torch.outer(torch.arange(n_positions).float(), 1.0 / config.rope_theta**exponents)
    table = torch.polar(torch.ones_like(angles), angles)
    h = F.embedding(tokens, weights["tok_embeddings.weight"])
    mask = torch.full((n_positions, n_positions), float("-inf")).triu(1).to(h.dtype)
    for i in range(config.n_layers):
        own = {n.removeprefix(f"layers.{i}."): w for n, w in weights.items()}
        x = normed(h, own["attention_norm.weight"], config.norm_eps)
        q, k, v = (F.linear(x, own[f"attention.w{name}.weight"]) for name in "qkv")
        q = turned(q.view(n_rows, n_positions, config.n_heads, width), table)
        k = turned(k.view(n_rows, n_positions, config.kv_heads, width), table)
        v = v.view(n_rows, n_positions, config.kv_heads, width)
        if n_repeats > 1:
            k, v = (
                t.unsqueeze(3)
                .expand(-1, -1, -1, n_repeats, -1)
                .reshape(n_rows, n_positions, config.n_heads, width)
                for t in (k, v)
            )
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(width) + mask
        mixed = torch.softmax(scores.float(), -1).to(q.dtype) @ v
        mixed = mixed.transpose(1, 2).reshape(n_rows, n_positions, -1)
        h = h + F.linear(mixed, own["attention.wo.weight"])
        x = normed(h, own["ffn_norm.weight"], config.norm_eps)
        gate = F.silu(F.linear(x, own["feed_forward.w1.weight"]))
        up = F.linear(x, own["feed_forward.w3.weight"])
        h = h + F.linear(gate * up, own["feed_forward.w2.weight"])
    return F.linear(
        normed(h, weights["norm.weight"], config.norm_eps), weights["output.weight"]
    ).float()
