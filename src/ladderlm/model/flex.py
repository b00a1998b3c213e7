"""Causal attention on a GPU that skips the blocks that the document mask hides.

Owns the fourth backend of `attention.py`: PyTorch's FlexAttention (Dong et al. 2024, 2412.05496),
whose kernel is generated for the mask. It computes only blocks in which some query sees some key,
which PyTorch's fused kernels cannot do for an arbitrary mask. It has no backward pass on a CPU.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["FlexPlan", "attend_flex", "plan_flex"]


@dataclass(frozen=True)
class FlexPlan:
    """Blocks of keys that each block of 128 queries reads; a `BlockMask` of PyTorch."""

    blocks: Any


def plan_flex(segment_ids: Tensor | None, n_positions: int, device: torch.device) -> FlexPlan:
    """Return the plan of a batch's documents, which all layers share.

    Args:
        segment_ids: (B, T) int, as in `attention.document_mask`; None for causal attention.
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
    """Return FlexAttention, compiled once per shape; uncompiled it would store all scores."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def attend_flex(q: Tensor, k: Tensor, v: Tensor, plan: FlexPlan) -> Tensor:
    """Attend by the visible blocks; arguments and result as in `attend_sdpa`, with S = T."""
    from torch.nn.attention.flex_attention import flex_attention

    whole = (
        q.device.type == "cpu" or torch.compiler.is_compiling()
    )  # compiled together with the layer
    attend = flex_attention if whole else _compiled()
    grouped = q.shape[1] != k.shape[1]
    return attend(q, k, v, block_mask=plan.blocks, enable_gqa=grouped)  # type: ignore[no-any-return]
