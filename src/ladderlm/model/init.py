"""Starting weights.

Owns the rule by which a fresh model is filled. Meta's code has none (it only loads).
"""

import math

import torch
from torch import nn

from ladderlm.model.transformer import Transformer

__all__ = ["init_weights"]


def init_weights(model: Transformer, seed: int) -> None:
    """Fill a model with normal weights from its own seeded stream.

    Matrices that read the residual stream have standard deviation `init_std`, 1 / sqrt(dim)
    unless set. Those that write to it (wo, w2) start at 1 / sqrt(fan_in) divided by
    sqrt(2 n_layers), so that the stream's variance does not grow with depth (source: Radford et
    al. 2019, section 2.3). The embedding has unit variance like a normed stream, and the head
    starts near zero, so that the first loss is ln(vocab_size). A table that serves as both starts
    at `init_std`, which gives logits of about unit variance. Norm gains are 1, and tables of
    value embeddings 0, so that a model with them starts as the one without.

    Every tensor is drawn on the CPU in the order of its name, so the result depends neither on
    the device nor on the order in which modules were declared.
    """
    config = model.config
    std_in = config.init_std if config.init_std is not None else config.dim**-0.5
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if name.endswith("norm.weight"):
            nn.init.ones_(weight)
            continue
        if name.startswith("value_embeddings."):
            nn.init.zeros_(weight)
            continue
        if name.endswith(("wo.weight", "w2.weight")):
            std = weight.shape[1] ** -0.5 / math.sqrt(2 * config.n_layers)
        elif name == "tok_embeddings.weight":
            std = std_in if config.tied_head else 1.0
        elif name == "output.weight":
            std = 0.1 * std_in
        else:
            std = std_in
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
