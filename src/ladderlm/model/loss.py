"""Next-token loss.

Owns `token_nats`, the reference of every fused or chunked version, and its masked sum.
"""

import torch.nn.functional as F
from torch import Tensor

from ladderlm.errors import LadderError
from ladderlm.model.precision import widen

__all__ = ["sum_token_loss", "token_nats"]


def token_nats(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Give the negative log-likelihood of every target.

    Args:
        hidden: (B, T, D), the normed residual stream.
        head: (V, D), the output matrix.
        targets: (B, T), int64 in [0, V).

    Returns:
        (B, T), nats, float32 (float64 for a float64 model), the dtype of the softmax.
    """
    logits_BTV = widen(F.linear(hidden, head))  # half precision loses the tail of the sum
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets.flatten(), reduction="none").view(
        targets.shape
    )


def sum_token_loss(nats: Tensor, loss_mask: Tensor) -> Tensor:
    """Add up the nats of the positions that count.

    Args:
        nats: (B, T), float32.
        loss_mask: (B, T), bool; False on padding and where the target is BOS.

    Returns:
        float32 scalar. Masked positions are selected away rather than multiplied by zero, so
        that not even an infinite loss on padding can leak.

    Raises:
        LadderError: shapes differ.
    """
    if nats.shape != loss_mask.shape:
        raise LadderError(f"loss of shape {tuple(nats.shape)} with a mask {tuple(loss_mask.shape)}")
    return nats.masked_fill(~loss_mask, 0.0).sum()
