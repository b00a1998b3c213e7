"""The decoder-only transformer, under Meta's parameter names.

Owns the order of operations of a forward pass: h = x + attention(norm(x)); out = h + mlp(norm(h)).
Knows nothing about files, padding or subsets.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ladderlm.model.attention import Attention, LayerCache, document_mask
from ladderlm.model.blocked import BlockPlan, plan_blocks
from ladderlm.model.config import ModelConfig
from ladderlm.model.flex import FlexPlan, plan_flex
from ladderlm.model.loss import cap_logits
from ladderlm.model.mlp import build_mlp
from ladderlm.model.norm import RMSNorm
from ladderlm.model.precision import widen
from ladderlm.model.rope import rope_table

__all__ = ["Block", "Transformer"]


class Block(nn.Module):
    """One layer: attention and MLP, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = build_mlp(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.dropout = config.dropout

    def forward(
        self,
        x: Tensor,
        angles: Tensor,
        mask: Tensor | BlockPlan | FlexPlan | None = None,
        cache: LayerCache | None = None,
        start: int = 0,
        extra_values: Tensor | None = None,
    ) -> Tensor:
        """Map x (B, T, D) to (B, T, D). Arguments as in `Attention.forward`."""
        normed = self.attention_norm(x)
        h = x + self._drop(self.attention(normed, angles, mask, cache, start, extra_values))
        return h + self._drop(self.feed_forward(self.ffn_norm(h)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(nn.Module):
    """LLaMA: token embedding, layers, final norm, head (untied unless `config.tied_head`).

    The config must have a known vocabulary. `init.init_weights` or a checkpoint fills the weights.
    """

    angles: Tensor
    static_blocks = False  # plan blocked attention by shapes alone, for torch.compile
    recompute = False  # recompute activations in the backward pass to save memory

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocabulary, config.dim)
        # Per-token tables, added to a layer's values (source: Zhou et al. 2024, value residual
        # learning; looked up by token, as in the speed runs of nanoGPT).
        width = config.kv_heads * config.head_dim
        self.value_embeddings = nn.ModuleList(
            nn.Embedding(config.vocabulary, width) for _ in range(config.value_embeddings)
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocabulary, bias=False)
        if config.tied_head:  # one parameter, under the embedding's name
            self.output.weight = self.tok_embeddings.weight
        table = rope_table(
            config.head_dim,
            config.max_seq_len,
            config.rope_theta,
            config.rope_scaling,
            polar=config.attention == "reference",
        )
        self.register_buffer("angles", table, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> "Transformer":
        """Move or cast the model, but never the angles to half precision: positions would blur."""
        angles = self.angles
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.angles.dtype.itemsize < torch.float32.itemsize:
            self.angles = angles.to(self.angles.device)
        return self

    def hidden(
        self, tokens: Tensor, positions: Tensor | None = None, segment_ids: Tensor | None = None
    ) -> Tensor:
        """Return the normed residual stream before the head, (B, T, D).

        Args:
            tokens: (B, T), int64.
            positions: (B, T), int64, each below max_seq_len; None for 0 .. T - 1.
            segment_ids: (B, T), int64; a position sees only earlier ones of its own segment.
                None for plain causal attention.
        """
        mask = self._plan(tokens, segment_ids)
        whole_rows = self.angles[: tokens.shape[1]].unsqueeze(0)
        angles = whole_rows if positions is None else self.angles[positions]
        x = self.tok_embeddings(tokens)
        for layer, extra in zip(self.layers, self._extra_values(tokens), strict=True):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, angles, mask, extra_values=extra, use_reentrant=False)
            else:
                x = layer(x, angles, mask, extra_values=extra)
        return self.norm(x)  # type: ignore[no-any-return]

    def _plan(
        self, tokens: Tensor, segment_ids: Tensor | None
    ) -> Tensor | BlockPlan | FlexPlan | None:
        """Return the attention mask, or the plan that the backend of this device uses instead."""
        n_positions, device = tokens.shape[1], tokens.device
        if self.config.attention == "flex" and device.type == "cuda" and self.training:
            # not in scoring, whose windows have many lengths, each of which would be compiled
            return plan_flex(segment_ids, n_positions, device)
        allowed = None if segment_ids is None else document_mask(segment_ids)
        if self.config.attention == "blocked" and device.type == "cpu":
            return plan_blocks(allowed, n_positions, device, self.static_blocks)
        return allowed

    def _extra_values(self, tokens: Tensor) -> list[Tensor | None]:
        """Return the addition to the values of each layer, (B, T, K E), using tables in turn."""
        looked_up = [table(tokens) for table in self.value_embeddings] or [None]
        return [looked_up[i % len(looked_up)] for i in range(self.config.n_layers)]

    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, segment_ids: Tensor | None = None
    ) -> Tensor:
        """Return next-token logits (B, T, V) in float32. Arguments as in `hidden`."""
        return self._logits(self.hidden(tokens, positions, segment_ids))

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits (B, T, V) of the normed residual stream (B, T, D)."""
        return cap_logits(widen(self.output(hidden)), self.config.logit_softcap)

    def make_caches(self, batch: int, seq_len: int) -> list[LayerCache]:
        """Allocate empty caches for `batch` sequences of at most `seq_len` positions."""
        weight = self.tok_embeddings.weight
        shape = (batch, seq_len, self.config.kv_heads, self.config.head_dim)
        empty = functools.partial(torch.zeros, shape, dtype=weight.dtype, device=weight.device)
        return [LayerCache(empty(), empty()) for _ in self.layers]

    def step(
        self, tokens: Tensor, caches: list[LayerCache], start: int, last: bool = False
    ) -> Tensor:
        """Read T more tokens of every sequence, and return float32 logits (B, T or 1, V).

        Args:
            tokens: (B, T), int64, at positions start .. start + T - 1.
            caches: from `make_caches`; hold `start` positions, and are extended in place.
            last: return the logits of the last position only.
        """
        angles = self.angles[start : start + tokens.shape[1]].unsqueeze(0)
        x = self.tok_embeddings(tokens)
        extras = self._extra_values(tokens)
        for layer, cache, extra in zip(self.layers, caches, extras, strict=True):
            x = layer(x, angles, None, cache, start, extra)
        if last:
            x = x[:, -1:]
        return self._logits(self.norm(x))
