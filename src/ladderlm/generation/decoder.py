"""A transformer optimized for reading one token at a time.

Owns `Decoder`: the same mathematics as `Transformer.step`, with the matrices that share an input
joined and each layer's cache in one tensor. It copies the weights, so it must be rebuilt after
they change. Training never uses it.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ladderlm.model.attention import LayerCache
from ladderlm.model.config import ModelConfig
from ladderlm.model.mlp import ACTIVATIONS, SwiGLU
from ladderlm.model.precision import widen
from ladderlm.model.transformer import Block, Transformer

__all__ = ["Decoder", "LayerWeights", "can_decode"]

# Fields that the code below implements; all others must have their defaults. The model's table of
# angles covers those of RoPE, and its weights cover a tied head.
_KNOWN_FIELDS = frozenset(
    "dim n_layers n_heads n_kv_heads vocab_size max_seq_len mlp ffn_dim multiple_of "
    "ffn_dim_multiplier norm_eps rope_theta rope_scaling_factor rope_low_freq_factor "
    "rope_high_freq_factor rope_original_seq_len tied_head dropout init_std".split()
)
_ATTENTION = {"wq.weight", "wk.weight", "wv.weight", "wo.weight"}
_MLP = {"w1.weight", "w2.weight", "w3.weight"}


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer; matrices with the same input are stacked along their rows.

    Args:
        attention_norm, ffn_norm: (D,).
        qkv: ((H + 2K) E, D), rows of wq, wk, wv.
        wo: (D, H E).
        up: (2F, D), rows of w1 and w3; (F, D) of w1 alone for a plain MLP.
        w2: (D, F).
    """

    attention_norm: Tensor
    qkv: Tensor
    wo: Tensor
    ffn_norm: Tensor
    up: Tensor
    w2: Tensor


def can_decode(model: Transformer) -> bool:
    """Return whether `Decoder` implements all options and parts of this model."""
    config = model.config
    unknown = [field for field in fields(ModelConfig) if field.name not in _KNOWN_FIELDS]
    # the reference backend is chosen for its order of operations, which `Decoder` does not keep
    if config.attention == "reference" or any(
        getattr(config, field.name) != field.default
        for field in unknown
        if field.name != "attention"
    ):
        return False
    mlp = _MLP if config.mlp == "swiglu" else _MLP - {"w3.weight"}
    return all(
        isinstance(layer, Block)
        and {name for name, _ in layer.attention.named_parameters()} == _ATTENTION
        and {name for name, _ in layer.feed_forward.named_parameters()} == mlp
        for layer in model.layers
    )


class Decoder:
    """A faster equivalent of a model's `step`.

    Args:
        model: on any device; its weights are copied.
        dtype: dtype of the copies and the cache; None: that of the model. The norms' statistics,
            the rotation and the logits stay in float32.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype | None = None) -> None:
        self.config = model.config
        self.device = model.tok_embeddings.weight.device
        self.dtype = model.tok_embeddings.weight.dtype if dtype is None else dtype
        self.embeddings = self._copy(model.tok_embeddings.weight)
        tied = model.output.weight is model.tok_embeddings.weight
        self.head = self.embeddings if tied else self._copy(model.output.weight)
        self.norm = self._copy(model.norm.weight)
        self.layers = [self._layer(layer) for layer in model.layers if isinstance(layer, Block)]
        # cos + i sin: one complex multiplication rotates a pair of channels
        self.turns = torch.view_as_complex(widen(model.angles).contiguous())

    def _copy(self, *weights: Tensor) -> Tensor:
        return torch.cat([weight.detach().to(self.dtype) for weight in weights])

    def _layer(self, layer: Block) -> LayerWeights:
        attention, mlp = layer.attention, layer.feed_forward
        ups = [mlp.w1.weight, mlp.w3.weight] if isinstance(mlp, SwiGLU) else [mlp.w1.weight]
        return LayerWeights(
            self._copy(layer.attention_norm.weight),
            self._copy(attention.wq.weight, attention.wk.weight, attention.wv.weight),
            self._copy(attention.wo.weight),
            self._copy(layer.ffn_norm.weight),
            self._copy(*ups),
            self._copy(mlp.w2.weight),
        )

    def make_caches(self, batch: int, seq_len: int) -> list[LayerCache]:
        """Allocate empty caches for `batch` sequences of at most `seq_len` positions."""
        # the positions of a head are adjacent in memory, as attention reads them
        shape = (2, batch, self.config.kv_heads, seq_len, self.config.head_dim)
        both = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.layers]
        return [LayerCache(cache[0].transpose(1, 2), cache[1].transpose(1, 2)) for cache in both]

    def step(
        self, tokens: Tensor, caches: list[LayerCache], start: int, last: bool = False
    ) -> Tensor:
        """Read T more tokens of every sequence; the caches hold all earlier ones.

        Args:
            tokens: (B, T), int64, at positions start .. start + T - 1.
            caches: from `make_caches`; written in place.
            start: number of positions in the caches.
            last: return the logits of the last position only.

        Returns:
            Logits (B, T, V) or (B, 1, V), float32.
        """
        config, (n_rows, n_new) = self.config, tokens.shape
        shape, end = (config.dim,), start + n_new
        turns = self.turns[start:end].view(1, n_new, 1, -1)
        mask = None
        if n_new > 1 and start:
            mask = torch.ones(n_new, end, dtype=torch.bool, device=self.device).tril_(start)
        x = self.embeddings[tokens].view(-1, config.dim)  # (B T, D)
        for layer, cache in zip(self.layers, caches, strict=True):
            h = F.rms_norm(x, shape, layer.attention_norm, config.norm_eps)
            qkv = F.linear(h, layer.qkv).view(n_rows, n_new, -1, config.head_dim)
            mixed = self._attend(qkv, turns, cache, start, mask)
            x = torch.addmm(x, mixed, layer.wo.t())
            h = F.linear(F.rms_norm(x, shape, layer.ffn_norm, config.norm_eps), layer.up)
            if config.mlp == "swiglu":
                gate, up = h.chunk(2, -1)
                h = F.silu(gate).mul_(up)
            else:
                h = ACTIVATIONS[config.mlp](h)
            x = torch.addmm(x, h, layer.w2.t())
        x = x.view(n_rows, n_new, -1)
        if last:
            x = x[:, -1:]
        return widen(F.linear(F.rms_norm(x, shape, self.norm, config.norm_eps), self.head))

    def _attend(
        self, qkv: Tensor, turns: Tensor, cache: LayerCache, start: int, mask: Tensor | None
    ) -> Tensor:
        """Rotate, cache and attend: qkv (B, T, H + 2K, E) to (B T, H E)."""
        n_rows, n_new, n_all, head_dim = qkv.shape
        n_kv = self.config.kv_heads
        n_heads, end = n_all - 2 * n_kv, start + n_new
        q_and_k = qkv[:, :, : n_heads + n_kv]
        pairs = torch.view_as_complex(widen(q_and_k).unflatten(-1, (-1, 2)))  # type: ignore[no-untyped-call]
        rotated = torch.view_as_real(pairs * turns).flatten(-2).to(self.dtype)
        cache.keys[:, start:end] = rotated[:, :, n_heads:]
        cache.values[:, start:end] = qkv[:, :, n_heads + n_kv :]
        k = cache.keys[:, :end].transpose(1, 2)
        v = cache.values[:, :end].transpose(1, 2)
        q = rotated[:, :, :n_heads]
        if n_new == 1:
            # The query heads of one kv head become the queries of one attention: grouped heads
            # need no copies of keys, and no mask, since each query sees all positions.
            q = q.view(n_rows, n_kv, n_heads // n_kv, head_dim)
            return F.scaled_dot_product_attention(q, k, v).reshape(n_rows, -1)
        if n_kv != n_heads:
            k = k.repeat_interleave(n_heads // n_kv, 1)
            v = v.repeat_interleave(n_heads // n_kv, 1)
        q = q.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return mixed.transpose(1, 2).reshape(n_rows * n_new, -1)
