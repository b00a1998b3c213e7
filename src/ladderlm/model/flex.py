"""Causal attention on a GPU that passes over blocks which the document mask closes.

Owns the fourth backend of `attention.py`: PyTorch's FlexAttention (Dong et al. 2024, 2412.05496),
whose kernel is generated for the mask. PyTorch's fused kernels cannot skip the blocks of an
arbitrary mask; this one meets only those in which some query sees some key. It has no backward pass
on a CPU.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["FlexPlan", "attend_flex", "plan_flex"]


@dataclass(frozen=True)
class FlexPlan:
    """Which blocks of 128 queries meet which blocks of keys; a `BlockMask` of PyTorch."""

    blocks: Any


def plan_flex(segment_ids: Tensor | None, n_positions: int, device: torch.device) -> FlexPlan:
    """Look once at the documents of a batch, for all layers.

    Args:
        segment_ids: (B, T) int, as in `attention.document_mask`; None: causal alone.
        n_positions: T.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def causal(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= key

    def within_documents(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert segment_ids is not None
        same = segment_ids[row, query] == segment_ids[row, key]
        real = segment_ids[row, query] >= 0
        return (same & real & (query >= key)) | (query == key)

    shape = (None if segment_ids is None else len(segment_ids), None, n_positions, n_positions)
    rule = causal if segment_ids is None else within_documents
    return FlexPlan(create_block_mask(rule, *shape, device=device))


@functools.cache
def _compiled() -> Any:
    """Return the kernel's entry, compiled once for each shape; uncompiled it holds all scores."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def attend_flex(q: Tensor, k: Tensor, v: Tensor, plan: FlexPlan) -> Tensor:
    """Attend by blocks that the mask leaves open.

    Args:
        q: (B, H, T, E).
        k, v: (B, K, T, E); query heads share key/value heads as in `attend_sdpa`.
        plan: of the same rows.

    Returns:
        (B, H, T, E).
    """
    from torch.nn.attention.flex_attention import flex_attention

    whole = q.device.type == "cpu" or torch.compiler.is_compiling()  # compiled with the layer
    attend = flex_attention if whole else _compiled()
    grouped = q.shape[1] != k.shape[1]
    return attend(q, k, v, block_mask=plan.blocks, enable_gqa=grouped)  # type: ignore[no-any-return]
