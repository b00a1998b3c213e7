"""Choose the next token from logits.

Owns `SamplingConfig` and the filters. Each sequence draws from its own stream of uniforms, so a
text does not depend on what stands beside it in the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ladderlm.errors import ConfigError

__all__ = ["SamplingConfig", "next_token_probabilities", "sample_tokens"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: keep the smallest set of likeliest tokens whose mass reaches this; None: all.
        top_k: keep this many likeliest tokens; None: all.
        seed: of the first sequence; sequence i uses seed + i.
    """

    temperature: float = 0.8
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < 1e6:
            raise ConfigError(f"temperature = {self.temperature}", "it is finite and not negative")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p}", "it lies in (0, 1]")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k}", "it is at least 1")
        if not 0 <= self.seed < 2**62:
            raise ConfigError(f"seed = {self.seed}", "it lies in [0, 2^62)")


def next_token_probabilities(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Apply temperature, top-k and top-p.

    top-p drops a token when the mass of the likelier ones already *exceeds* p, so the likeliest
    always stays. Source: Holtzman et al. 2019, section 3.1; the rule as in facebookresearch/llama.

    Args:
        logits: (B, V), float32.

    Returns:
        probabilities (B, V), float64, sorted descending and summing to 1, and their token ids.
    """
    probabilities, ids = torch.sort(
        torch.softmax(logits.double() / config.temperature, dim=-1), descending=True, stable=True
    )
    if config.top_k is not None:
        probabilities[:, config.top_k :] = 0.0
    if config.top_p is not None:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before > config.top_p, 0.0)
    return probabilities / probabilities.sum(-1, keepdim=True), ids


def sample_tokens(logits: Tensor, config: SamplingConfig, uniforms: Tensor) -> Tensor:
    """Draw one token a row.

    Args:
        logits: (B, V), float32.
        uniforms: (B,), float64 in [0, 1); unused at temperature 0.

    Returns:
        (B,), int64.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    probabilities, ids = next_token_probabilities(logits, config)
    place = torch.searchsorted(probabilities.cumsum(-1), uniforms.unsqueeze(-1), right=True)
    n_kept = (probabilities > 0).sum(-1, keepdim=True)
    return ids.gather(-1, torch.minimum(place, n_kept - 1)).squeeze(-1)
