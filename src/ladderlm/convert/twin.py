"""A second forward pass, by which conversions are judged.

Owns a LLaMA as plain functions of the tensors of one *format*: it reads them under the format's own
names and turns q and k in the format's own way, so a mistake that a reader and a writer share still
shows. It shares no code with `model/` and streams: one layer in memory at a time. Sums are float64,
except the rotary angles, which every implementation takes in float32.
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
# What a layer is made of, by Meta's last names.
PARTS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3", "attention_norm", "ffn_norm")
Read = Callable[[str, int], Tensor]  # (part, layer); the layer of the top parts is 0


@dataclass(frozen=True)
class Recipe:
    """What a format says about its model, in numbers.

    Args:
        layout: pairs: channels 2i and 2i + 1 turn together; halves: i and i + E/2.
        ffn_dim: rows that w1 must have.
        frequencies: (E/2,), float32, what each pair turns per position.
        tied_head: there is no part `head`; the embedding serves.
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
    """Turn (T, H, E) by the angles (T, 1, E/2) of its positions."""
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
    """Return the logits of token rows.

    Args:
        read: gives a part of the model, in the format's layout: one of `PARTS` with its layer, or
            embedding, norm or head.
        rows: token ids, from position 0.
        embedding_scale: factor on the looked-up vectors; small ones make `norm_eps` count.

    Returns:
        For each row (T, V), float64.

    Raises:
        CheckpointError: w1 has not the rows that the format promises.
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
                f"w1 of layer {layer} has {len(part['w1'])} rows",
                f"the config makes the MLP {recipe.ffn_dim} wide",
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
    """Continue a prompt by the likeliest token, each time from the start (no cache to trust)."""
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(int(run_twin(recipe, read, [tokens])[0][-1].argmax()))
    return tokens[len(prompt) :]
