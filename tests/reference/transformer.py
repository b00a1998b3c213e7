"""LLaMA as plain loops over numpy float64: slow, obvious, without torch.

One position, one head and one key at a time, straight from the formulas: RMSNorm (Zhang and
Sennrich 2019), rotary pairs as complex numbers (Su et al. 2021), grouped-query attention,
SwiGLU (Shazeer 2020); normed queries and keys, value embeddings. Weights come by Meta's names.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ladderlm.model.config import ModelConfig

__all__ = ["meta_ffn_width", "reference_logits", "reference_nats", "rms_norm", "turn"]

Array = NDArray[np.float64]


def meta_ffn_width(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Meta's rule, step by step as it is published."""
    hidden = 4 * dim
    hidden = int(2 * hidden / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    while hidden % multiple_of:
        hidden += 1
    return hidden


def rms_norm(x: Array, gain: Array, eps: float) -> Array:
    """Divide by the root of (mean square + eps), then multiply by the gain."""
    mean_square = sum(float(value) ** 2 for value in x) / len(x)
    return x / math.sqrt(mean_square + eps) * gain


def turn(x: Array, position: int, theta: float) -> Array:
    """Multiply the complex number x[2i] + j x[2i + 1] by exp(j position theta^(-2i / E))."""
    turned = np.empty_like(x)
    for i in range(len(x) // 2):
        angle = position * theta ** (-2 * i / len(x))
        number = complex(x[2 * i], x[2 * i + 1]) * complex(math.cos(angle), math.sin(angle))
        turned[2 * i], turned[2 * i + 1] = number.real, number.imag
    return turned


def _attend(
    weights: dict[str, Array],
    config: ModelConfig,
    rows: list[Array],
    positions: list[int],
    segments: list[int],
    extra: list[Array] | None,
) -> list[Array]:
    width, n_repeats = config.head_dim, config.n_heads // config.kv_heads
    mixed = [np.zeros(config.n_heads * width) for _ in rows]
    for head in range(config.n_heads):
        own, shared = head, head // n_repeats
        part_q = slice(own * width, (own + 1) * width)
        part_k = slice(shared * width, (shared + 1) * width)
        q = [(weights["wq"] @ x)[part_q] for x in rows]
        k = [(weights["wk"] @ x)[part_k] for x in rows]
        v = [(weights["wv"] @ x)[part_k] for x in rows]
        if config.qk_norm:
            q = [rms_norm(x, weights["q_norm"], config.norm_eps) for x in q]
            k = [rms_norm(x, weights["k_norm"], config.norm_eps) for x in k]
        q = [turn(x, p, config.rope_theta) for x, p in _with(q, positions)]
        k = [turn(x, p, config.rope_theta) for x, p in _with(k, positions)]
        if extra is not None:
            v = [x + more[part_k] for x, more in zip(v, extra, strict=True)]
        for t in range(len(rows)):
            seen = [s for s in range(t + 1) if segments[s] == segments[t] and segments[t] >= 0]
            seen = seen or [t]
            scores = np.array([q[t] @ k[s] / math.sqrt(width) for s in seen])
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            for share, s in zip(shares, seen, strict=True):
                mixed[t][part_q] += share * v[s]
    return [weights["wo"] @ x for x in mixed]


def _with(rows: list[Array], positions: list[int]) -> list[tuple[Array, int]]:
    return list(zip(rows, positions, strict=True))


def _feed_forward(weights: dict[str, Array], config: ModelConfig, x: Array) -> Array:
    gate = weights["w1"] @ x
    if config.mlp == "relu2":
        return weights["w2"] @ np.array([value**2 if value > 0 else 0.0 for value in gate])
    if config.mlp == "gelu":
        halves = [0.5 * (1 + math.erf(value / math.sqrt(2))) for value in gate]
        return weights["w2"] @ (gate * np.array(halves))
    return weights["w2"] @ (gate / (1 + np.exp(-gate)) * (weights["w3"] @ x))


def _layer_weights(weights: dict[str, Array], layer: int) -> dict[str, Array]:
    """Return the weights of one layer by the last part of their names."""
    start = f"layers.{layer}."
    found = {}
    for name, value in weights.items():
        if name.startswith(start):
            found[name.removeprefix(start).removesuffix(".weight").split(".")[-1]] = value
    return found


def reference_logits(
    weights: dict[str, Array],
    config: ModelConfig,
    tokens: list[int],
    positions: list[int] | None = None,
    segments: list[int] | None = None,
) -> Array:
    """Return next-token logits (T, V) of one row."""
    positions = positions if positions is not None else list(range(len(tokens)))
    segments = segments if segments is not None else [0] * len(tokens)
    stream = [weights["tok_embeddings.weight"][token].copy() for token in tokens]
    for layer in range(config.n_layers):
        own = _layer_weights(weights, layer)
        normed = [rms_norm(x, own["attention_norm"], config.norm_eps) for x in stream]
        extra = None
        if config.value_embeddings:
            table = weights[f"value_embeddings.{layer % config.value_embeddings}.weight"]
            extra = [table[token] for token in tokens]
        changes = _attend(own, config, normed, positions, segments, extra)
        for x, change in zip(stream, changes, strict=True):
            x += change
        for x in stream:
            x += _feed_forward(own, config, rms_norm(x, own["ffn_norm"], config.norm_eps))
    final = [rms_norm(x, weights["norm.weight"], config.norm_eps) for x in stream]
    return np.array([weights["output.weight"] @ x for x in final])


def reference_nats(logits: Array, targets: list[int]) -> list[float]:
    """Return -log softmax(logits)[target] of every position."""
    nats = []
    for row, target in zip(logits, targets, strict=True):
        peak = float(row.max())
        nats.append(
            peak + math.log(sum(math.exp(value - peak) for value in row)) - float(row[target])
        )
    return nats
