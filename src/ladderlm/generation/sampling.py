"""Choose the next token from logits.

Owns the filters. Each sequence has its own stream of uniforms, so a text does not depend on the
others in its batch.
"""

import torch
from torch import Tensor

from ladderlm.generation.config import SamplingConfig

__all__ = ["next_token_probabilities", "penalise_repetition", "sample_tokens"]


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide the positive logits of seen tokens by `penalty`, multiply the negative ones by it.

    Source: Keskar et al. 2019 (CTRL), section 4.1, which does not treat negative logits.

    Args:
        logits: (B, V), float32.
        seen: (B, V), bool; tokens that the row's text contains.

    Returns:
        (B, V).
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def next_token_probabilities(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Apply temperature, top-k, top-p and min-p to logits (B, V), float32.

    top-p drops a token if the more likely tokens together already *exceed* p, so the most likely
    one always stays. Source: Holtzman et al. 2019, section 3.1; the rule as in
    facebookresearch/llama. min-p: Nguyen et al. 2024, equation 2. Each filter is applied to the
    distribution after temperature, so their order does not matter.

    Returns:
        Probabilities (B, V), float64, sorted descending and summing to 1, and their token ids.
    """
    probabilities, ids = torch.sort(
        torch.softmax(logits.double() / config.temperature, dim=-1), descending=True, stable=True
    )
    dropped = torch.zeros_like(probabilities, dtype=torch.bool)
    if config.top_k is not None:
        dropped[:, config.top_k :] = True
    if config.top_p is not None:
        dropped |= probabilities.cumsum(-1) - probabilities > config.top_p
    if config.min_p is not None:
        dropped |= probabilities < config.min_p * probabilities[:, :1]
    probabilities = probabilities.masked_fill(dropped, 0.0)
    return probabilities / probabilities.sum(-1, keepdim=True), ids


def sample_tokens(logits: Tensor, config: SamplingConfig, uniforms: Tensor) -> Tensor:
    """Draw one token per row.

    Args:
        logits: (B, V), float32, the repetition penalty already applied.
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
