"""Causal grouped-query attention with document masks and a key/value cache.

Owns the projections and the backends, which compute the same function: `reference` in Meta's
explicit order of operations, `sdpa` by PyTorch's fused kernel, and those of `blocked.py` and
`flex.py`. Shapes: B sequences, T query positions, S key positions, H heads, K key/value heads, E
channels of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladderlm.model.blocked import BlockPlan, attend_blocked
from ladderlm.model.config import ModelConfig
from ladderlm.model.flex import FlexPlan, attend_flex
from ladderlm.model.norm import RMSNorm
from ladderlm.model.precision import widen
from ladderlm.model.rope import apply_rotary

__all__ = ["Attention", "LayerCache", "document_mask"]


def document_mask(segment_ids: Tensor) -> Tensor:
    """Return a mask by which each query sees itself and earlier positions of its own document.

    Args:
        segment_ids: (B, T) int; equal ids are one document, -1 is padding.

    Returns:
        (B, 1, T, T) bool. A padded query sees only itself, so that its softmax is not NaN. No
        other query sees padding.
    """
    n_positions = segment_ids.shape[1]
    same = segment_ids.unsqueeze(2) == segment_ids.unsqueeze(1)
    real = (segment_ids >= 0).unsqueeze(2)
    causal = torch.ones(n_positions, n_positions, dtype=torch.bool, device=same.device).tril()
    itself = torch.eye(n_positions, dtype=torch.bool, device=same.device)
    return ((same & real & causal) | itself).unsqueeze(1)


class LayerCache:
    """Keys and values (B, S_max, K, E) of the positions read so far, for one layer."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def extend(self, k_BTKE: Tensor, v_BTKE: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Store T new positions at `start`; return all keys and values up to their end."""
        end = start + k_BTKE.shape[1]
        self.keys[:, start:end] = k_BTKE
        self.values[:, start:end] = v_BTKE
        return self.keys[:, :end], self.values[:, :end]


class Attention(nn.Module):
    """Projection to queries, keys and values, attention, and projection back. No biases.

    With `qk_norm` every query and key head is normed over its channels, with one gain for all
    heads of a layer, before the rotary embedding. Sources: Henry et al. 2020; Dehghani et al.
    2023, section 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.kv_heads
        self.backend = config.attention
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        angles: Tensor,
        mask: Tensor | BlockPlan | FlexPlan | None = None,
        cache: LayerCache | None = None,
        start: int = 0,
        extra_values: Tensor | None = None,
    ) -> Tensor:
        """Attend over x (B, T, D) and the cache before `start`; return (B, T, D).

        Args:
            angles: (B or 1, T, E / 2, 2) of the positions of x.
            mask: (B, 1, T, S) bool, True where a query may look; None for causal attention over
                x, or for the whole cache if T is 1. A plan selects the blocked or flex backend.
            cache: written at `start` and read up to start + T.
            start: first position of x in the cache.
            extra_values: (B, T, K E), added to the values.
        """
        q_BTHE = self.wq(x).unflatten(-1, (self.n_heads, -1))
        k_BSKE = self.wk(x).unflatten(-1, (self.n_kv_heads, -1))
        if self.qk_norm:
            q_BTHE, k_BSKE = self.q_norm(q_BTHE), self.k_norm(k_BSKE)
        q_BTHE, k_BSKE = apply_rotary(q_BTHE, angles), apply_rotary(k_BSKE, angles)
        values = self.wv(x) if extra_values is None else self.wv(x) + extra_values
        v_BSKE = values.unflatten(-1, (self.n_kv_heads, -1))
        if cache is not None:
            k_BSKE, v_BSKE = cache.extend(k_BSKE, v_BSKE, start)
        q, k, v = (t.transpose(1, 2) for t in (q_BTHE, k_BSKE, v_BSKE))
        if isinstance(mask, FlexPlan):
            mixed_BHTE = attend_flex(q, k, v, mask)
        elif isinstance(mask, BlockPlan):
            mixed_BHTE = attend_blocked(q, *_repeat_heads(k, v, self.n_heads), mask)
        else:
            attend = attend_reference if self.backend == "reference" else attend_sdpa
            mixed_BHTE = attend(q, k, v, mask)
        return self.wo(mixed_BHTE.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend by PyTorch's fused kernel; return (B, H, T, E).

    Args:
        q: (B, H, T, E).
        k, v: (B, K, S, E) with S >= T; kv head h serves query heads h*H/K .. (h+1)*H/K-1.
        mask: as in `Attention.forward`.
    """
    k, v = _repeat_heads(k, v, q.shape[1])
    causal = mask is None and q.shape[2] > 1
    if causal and k.shape[2] != q.shape[2]:
        mask, causal = _causal_mask(q.shape[2], k.shape[2], q.device), False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def attend_reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend in Meta's order: scores in the model dtype, softmax in float32, cast back.

    Arguments and result as in `attend_sdpa`.
    """
    n_repeats = q.shape[1] // k.shape[1]
    if n_repeats > 1:  # heads are repeated after the positions, as in Meta's memory layout:
        # the last bit of a half-precision matrix multiplication depends on the strides
        k, v = (t.transpose(1, 2).repeat_interleave(n_repeats, 2).transpose(1, 2) for t in (k, v))
    scores_BHTS = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1])
    if mask is None and q.shape[2] > 1:
        mask = _causal_mask(q.shape[2], k.shape[2], q.device)
    if mask is not None:
        closed = torch.zeros_like(mask, dtype=scores_BHTS.dtype)
        scores_BHTS = scores_BHTS + closed.masked_fill(~mask, float("-inf"))
    weights_BHTS = F.softmax(widen(scores_BHTS), dim=-1).type_as(q)
    return torch.matmul(weights_BHTS, v)


def _repeat_heads(k: Tensor, v: Tensor, n_heads: int) -> tuple[Tensor, Tensor]:
    """Repeat key/value heads so that each query head has one: (B, K, S, E) to (B, H, S, E)."""
    n_repeats = n_heads // k.shape[1]
    if n_repeats == 1:
        return k, v
    return k.repeat_interleave(n_repeats, 1), v.repeat_interleave(n_repeats, 1)


def _causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """Return the causal mask (T, S), bool, of the last `n_queries` of `n_keys` positions."""
    square = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return square.tril(diagonal=n_keys - n_queries)
