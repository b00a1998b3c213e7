"""Models of other trainers in plain PyTorch, for comparison with ours.

Owns a GPT like nanoGPT's (LayerNorm, GELU, learned positions, joint projections) and a LLaMA like
those of litgpt and transformers (RMSNorm, SwiGLU, rotary embedding of halves). Both use PyTorch's
attention, hold all logits at once and have no document masks. Only benchmarks use them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladderlm.model.config import ModelConfig

__all__ = ["PlainGPT", "PlainLlama"]


class _PlainModel(nn.Module):
    """Embedding, layers, norm, head and mean loss over all positions."""

    def __init__(self, config: ModelConfig, norm: nn.Module, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.dim)
        self.layers, self.norm = nn.ModuleList(layers), norm
        self.head = nn.Linear(config.dim, config.vocabulary, bias=False)
        self.apply(_init)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return (B, T, D)."""
        return self.embedding(tokens)  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss in nats of targets (B, T) given tokens (B, T)."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute causal attention of q, k, v (B, H, T, E); return (B, T, H E)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class PlainGPT(_PlainModel):
    """GPT-2's architecture with as many matrix parameters as a LLaMA of the same shape."""

    def __init__(self, config: ModelConfig) -> None:
        layers: list[nn.Module] = [_GPTLayer(config) for _ in range(config.n_layers)]
        super().__init__(config, nn.LayerNorm(config.dim), layers)
        self.positions = nn.Embedding(config.max_seq_len, config.dim)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return (B, T, D) with positions added."""
        positions = self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.embedding(tokens) + positions  # type: ignore[no-any-return]


class _GPTLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, dim = config.n_heads, config.dim
        self.norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in qkv)
        x = x + self.out(_attend(q, k, v))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))  # type: ignore[no-any-return]


class PlainLlama(_PlainModel):
    """LLaMA's architecture with separate matrices and one key/value head for each query head."""

    def __init__(self, config: ModelConfig) -> None:
        layers: list[nn.Module] = [_LlamaLayer(config) for _ in range(config.n_layers)]
        super().__init__(config, nn.RMSNorm(config.dim, config.norm_eps), layers)


class _LlamaLayer(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, width = config.dim, config.ffn_width
        self.n_heads = config.n_heads
        self.norm = nn.RMSNorm(dim, config.norm_eps)
        self.mlp_norm = nn.RMSNorm(dim, config.norm_eps)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(dim, width, bias=False) for _ in range(2))
        self.down = nn.Linear(width, dim, bias=False)
        frequencies = config.rope_theta ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
        angles = torch.outer(torch.arange(config.max_seq_len), torch.cat([frequencies] * 2))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (
            project(normed).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        x = x + self.out(_attend(self._rotate(q), self._rotate(k), v))
        normed = self.mlp_norm(x)
        mixed = F.silu(self.gate(normed)) * self.up(normed)
        return x + self.down(mixed)  # type: ignore[no-any-return]

    def _rotate(self, x: Tensor) -> Tensor:
        """Rotate the halves of (B, H, T, E) by the angles of the positions."""
        first, second = x.chunk(2, -1)
        cos, sin = self.cos[: x.shape[2]].type_as(x), self.sin[: x.shape[2]].type_as(x)
        return x * cos + torch.cat([-second, first], -1) * sin
