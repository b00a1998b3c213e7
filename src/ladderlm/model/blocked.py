"""Causal attention on a CPU, in blocks of queries that skip the keys after their end.

Owns the third backend of `attention.py`. PyTorch's CPU kernel computes whole squares of scores, and
its backward pass is slow. Here a block of queries reads only the keys from the first one that any
of them may see to the block's own end. This skips half of the causal square, and most of what the
document mask hides in packed rows. A few rows are processed at a time, so that their scores stay in
the CPU's cache. Scores and softmax are float32 for any dtype of the model.

Shapes: B sequences, T positions, H heads, E channels of a head.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ladderlm.model.precision import widen

__all__ = ["BlockPlan", "attend_blocked", "plan_blocks"]

BLOCK = 128  # queries; 64 and 256 were not faster at 512 positions
SCORES_PER_THREAD = 1 << 17  # in one block of scores: 512 KiB in float32, a level 2 cache


@dataclass(frozen=True)
class BlockPlan:
    """Range of keys that each block of queries reads.

    Args:
        bias: (B or 1, 1, T, T) float32, 0 where a query may look and -inf elsewhere.
        first_keys: first key that any query of a block sees, for each row (or one for all) and
            block; None to begin at key 0 always, so that shapes do not depend on the batch.
    """

    bias: Tensor
    first_keys: list[list[int]] | None

    def groups(
        self, n_rows: int, n_heads: int
    ) -> Iterator[tuple[slice, list[tuple[slice, slice]]]]:
        """Yield groups of rows, each with its blocks as (queries, keys)."""
        assert self.first_keys is not None  # a static plan has no groups
        n_positions = self.bias.shape[-1]
        per_row = n_heads * min(BLOCK, n_positions) * n_positions
        n_together = max(1, SCORES_PER_THREAD * torch.get_num_threads() // per_row)
        for begin in range(0, n_rows, n_together):
            rows = slice(begin, min(begin + n_together, n_rows))
            lists = self.first_keys[rows] if len(self.first_keys) > 1 else self.first_keys
            blocks = []
            for i, first in enumerate(map(min, zip(*lists, strict=True))):
                end = min((i + 1) * BLOCK, n_positions)
                blocks.append((slice(i * BLOCK, end), slice(first, end)))
            yield rows, blocks


def plan_blocks(
    mask: Tensor | None, n_positions: int, device: torch.device, static: bool = False
) -> BlockPlan:
    """Return the plan of a mask, which all layers share.

    Args:
        mask: (B, 1, T, T) bool, True where a query may look, never after itself; None for causal.
        n_positions: T.
        static: return a plan that depends on shapes alone.
    """
    if mask is None:
        mask = torch.ones(n_positions, n_positions, dtype=torch.bool, device=device).tril()
        mask = mask[None, None]
    bias = torch.zeros(mask.shape, device=device).masked_fill_(~mask, -math.inf)
    if static:
        return BlockPlan(bias, None)
    first_seen = mask[:, 0].to(torch.uint8).argmax(dim=-1)  # (B, T); the first of equal values
    lows = [part.amin(dim=1) for part in torch.split(first_seen, BLOCK, dim=1)]
    return BlockPlan(bias, torch.stack(lows, dim=1).tolist())


def attend_blocked(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
    """Attend by blocks of queries; q, k, v and the result are (B, H, T, E)."""
    if plan.first_keys is None:
        return _attend_static(q, k, v, plan.bias)
    return _Blocked.apply(q, k, v, plan)  # type: ignore[no-any-return, no-untyped-call]


def _attend_static(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attend in plain operations on all rows at once, which torch.compile can fuse."""
    parts = []
    for begin in range(0, q.shape[2], BLOCK):
        end = min(begin + BLOCK, q.shape[2])
        scores = widen(q[:, :, begin:end] @ k[:, :, :end].transpose(2, 3))
        scores = scores / math.sqrt(q.shape[-1]) + bias[:, :, begin:end, :end]
        parts.append(torch.softmax(scores, -1).type_as(v) @ v[:, :, :end])
    return torch.cat(parts, dim=2)


class _Blocked(torch.autograd.Function):
    """Softmax attention with an explicit gradient: dS = P * (dP - sum(P * dP)).

    Source: Dao et al. 2022 (2205.14135), appendix B.2; the weights P are kept, not recomputed.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
        scaled = (q / math.sqrt(q.shape[-1])).contiguous()
        k, v = k.contiguous(), v.contiguous()
        mixed = torch.empty_like(scaled)
        kept: list[Tensor] = []
        keep = any(ctx.needs_input_grad[:3])
        for rows, blocks in plan.groups(q.shape[0], q.shape[1]):
            bias = plan.bias[rows] if plan.bias.shape[0] > 1 else plan.bias
            for queries, keys in blocks:
                scores = widen(scaled[rows, :, queries] @ k[rows, :, keys].transpose(2, 3))
                scores += bias[:, :, queries, keys]
                weights = torch.softmax(scores, -1, out=scores).type_as(v)
                mixed[rows, :, queries] = weights @ v[rows, :, keys]
                if keep:
                    kept.append(weights)
        if keep:
            ctx.save_for_backward(scaled, k, v, mixed, *kept)
            ctx.plan = plan
        return mixed

    @staticmethod
    def backward(ctx: Any, d_mixed: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        scaled, k, v, mixed, *kept = ctx.saved_tensors
        d_mixed = d_mixed.contiguous()
        total = (widen(d_mixed) * widen(mixed)).sum(-1, keepdim=True)  # sum(P * dP), (B, H, T, 1)
        d_q, d_k, d_v = torch.empty_like(scaled), torch.zeros_like(k), torch.zeros_like(v)
        in_order = iter(kept)
        for rows, blocks in ctx.plan.groups(*scaled.shape[:2]):
            for queries, keys in blocks:
                weights, d_out = next(in_order), d_mixed[rows, :, queries]
                d_v[rows, :, keys] += weights.transpose(2, 3) @ d_out
                d_scores = widen(d_out @ v[rows, :, keys].transpose(2, 3))
                d_scores = d_scores.sub_(total[rows, :, queries]).mul_(weights).type_as(k)
                d_q[rows, :, queries] = d_scores @ k[rows, :, keys]
                d_k[rows, :, keys] += d_scores.transpose(2, 3) @ scaled[rows, :, queries]
        return d_q / math.sqrt(k.shape[-1]), d_k, d_v, None
