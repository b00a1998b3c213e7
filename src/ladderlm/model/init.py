"""Initialise the weights of a model.

Owns the rule for each parameter. Meta's code has none, since it only loads weights.
"""

import math

import torch
from torch import nn

from ladderlm.model.transformer import Transformer

__all__ = ["init_weights"]


def init_weights(model: Transformer, seed: int) -> None:
    """Fill a model with normally distributed weights from its own seeded generator.

    Matrices that read the residual stream have standard deviation `init_std`, by default
    1 / sqrt(dim). Those that write to it (wo, w2) have 1 / sqrt(fan_in) divided by
    sqrt(2 n_layers), so that the stream's variance does not grow with depth (source: Radford et
    al. 2019, section 2.3). The embedding has unit variance, like a normed stream, and the head
    starts near zero, so that the first loss is ln(vocab_size). A tied table has `init_std`, which
    gives logits of about unit variance. Norm gains are 1. Tables of value embeddings are 0, so that
    a model with them starts out equal to one without.

    Tensors are drawn on the CPU in the order of their names, so the result depends neither on the
    device nor on the order in which modules were declared.
    """
    config = model.config
    std_in = config.init_std if config.init_std is not None else config.dim**-0.5
    special = {
        "tok_embeddings.weight": std_in if config.tied_head else 1.0,
        "output.weight": 0.1 * std_in,
    }
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if name.endswith("norm.weight"):
            nn.init.ones_(weight)
        elif name.startswith("value_embeddings."):
            nn.init.zeros_(weight)
        else:
            std = special.get(name, std_in)
            if name.endswith(("wo.weight", "w2.weight")):
                std = weight.shape[1] ** -0.5 / math.sqrt(2 * config.n_layers)
            with torch.no_grad():
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)
