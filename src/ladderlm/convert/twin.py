"""A second forward pass, for the certificates of conversions.

Owns a LLaMA as plain functions of the tensors of one *format*. It reads them under the format's own
names and rotates q and k in the format's own layout, so that a mistake shared by a reader and a
writer is found. It shares no code with `model/`, and holds one layer in memory at a time. Sums are
float64; the angles of RoPE are float32, as in every implementation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ladderlm.errors import CheckpointError

__all__ = ["PARTS", "Layout", "Read", "Recipe", "greedy_tokens", "run_twin"]

Layout = Literal["pairs", "halves"]
# Tensors of a layer, by the last part of Meta's names.
PARTS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3", "attention_norm", "ffn_norm")
Read = Callable[[str, int], Tensor]  # (part, layer); layer 0 for parts outside layers


@dataclass(frozen=True)
class Recipe:
    """The numbers by which a format describes its model.

    Args:
        layout: pairs: channels 2i and 2i + 1 rotate together; halves: i and i + E/2.
        ffn_dim: rows of w1.
        frequencies: (E/2,), float32, rotation angle of each pair per position.
        tied_head: the embedding is the head, and there is no part `head`.
        logit_softcap: logits are cap * tanh(x / cap); None: they are x.
    """

    layout: Layout
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_dim: int
    norm_eps: float
    frequencies: Tensor
    tied_head: bool
    logit_softcap: float | None = None


def _norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * gain


def _turn(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
    """Rotate (T, H, E) by the angles (T, 1, E/2) of its positions."""
    half = x.shape[-1] // 2
    first = x[..., 0::2] if layout == "pairs" else x[..., :half]
    second = x[..., 1::2] if layout == "pairs" else x[..., half:]
    turned = (first * cos - second * sin, first * sin + second * cos)
    return torch.stack(turned, -1).flatten(-2) if layout == "pairs" else torch.cat(turned, -1)


def _attend_by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend causally, one query head at a time: (T, H, E) from (T, H, E) and (T, K, E)."""
    n_positions, n_heads, width = q.shape
    future = torch.ones(n_positions, n_positions, dtype=torch.bool).triu(1)
    mixed = []
    for head in range(n_heads):
        shared = head * k.shape[1] // n_heads
        scores = (q[:, head] @ k[:, shared].T / math.sqrt(width)).masked_fill(future, -math.inf)
        mixed.append(scores.softmax(-1) @ v[:, shared])
    return torch.stack(mixed, 1)


def run_twin(
    recipe: Recipe, read: Read, rows: Sequence[Sequence[int]], embedding_scale: float = 1.0
) -> list[Tensor]:
    """Return the logits of token rows, (T, V) in float64 each.

    Args:
        read: returns a part of the model in the format's layout: one of `PARTS` and its layer, or
            embedding, norm or head.
        rows: token ids, from position 0.
        embedding_scale: factor on the embeddings; a small one makes `norm_eps` matter.

    Raises:
        CheckpointError: w1 does not have `ffn_dim` rows.
    """
    longest = max(map(len, rows))
    angles = torch.outer(torch.arange(longest).float(), recipe.frequencies.float())
    cos, sin = angles.cos().double().unsqueeze(1), angles.sin().double().unsqueeze(1)
    table = read("embedding", 0).double()
    streams = [table[torch.tensor(row)] * embedding_scale for row in rows]
    for layer in range(recipe.n_layers):
        part = {name: read(name, layer).double() for name in PARTS}
        if len(part["w1"]) != recipe.ffn_dim:
            raise CheckpointError(
                f"w1 of layer {layer} must have {recipe.ffn_dim} rows, it has {len(part['w1'])}"
            )
        streams = [_block(recipe, part, x, cos[: len(x)], sin[: len(x)]) for x in streams]
    gain = read("norm", 0).double()
    head = table if recipe.tied_head else read("head", 0).double()
    logits = [_norm(x, gain, recipe.norm_eps) @ head.T for x in streams]
    cap = recipe.logit_softcap
    return logits if cap is None else [cap * torch.tanh(x / cap) for x in logits]


def _block(recipe: Recipe, part: dict[str, Tensor], x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply one layer to (T, D)."""
    normed = _norm(x, part["attention_norm"], recipe.norm_eps)
    q = (normed @ part["wq"].T).view(len(x), recipe.n_heads, -1)
    k = (normed @ part["wk"].T).view(len(x), recipe.n_kv_heads, -1)
    v = (normed @ part["wv"].T).view(len(x), recipe.n_kv_heads, -1)
    q, k = (_turn(t, cos, sin, recipe.layout) for t in (q, k))
    h = x + _attend_by_head(q, k, v).flatten(1) @ part["wo"].T
    normed = _norm(h, part["ffn_norm"], recipe.norm_eps)
    gate = normed @ part["w1"].T
    return h + (gate * gate.sigmoid() * (normed @ part["w3"].T)) @ part["w2"].T


def greedy_tokens(recipe: Recipe, read: Read, prompt: Sequence[int], n_new: int) -> list[int]:
    """Continue a prompt by the likeliest token, without a cache, and return the new tokens."""
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(int(run_twin(recipe, read, [tokens])[0][-1].argmax()))
    return tokens[len(prompt) :]
