"""Next-token loss.

Owns `token_nats`, the reference for every fused or chunked version, and `sum_head_nats`, its sum
over the unmasked positions, which never holds all logits. Both know the soft cap of logits.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ladderlm.model.precision import widen

__all__ = ["cap_logits", "sum_head_nats", "token_nats"]

# Logits of one chunk: on a CPU 4 MiB in float32, which fit into its cache, but at least so many
# rows that the gradient of the head is not accumulated too often.
CPU_CHUNK_LOGITS, CPU_CHUNK_ROWS = 1 << 20, 256
GPU_CHUNK_LOGITS, GPU_CHUNK_ROWS = 1 << 27, 2048


def cap_logits(logits: Tensor, softcap: float | None) -> Tensor:
    """Return cap * tanh(logits / cap), or the logits if the cap is None.

    Source: Gemma Team 2024 (2408.00118), section 2, logit soft-capping.
    """
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def token_nats(
    hidden: Tensor, head: Tensor, targets: Tensor, softcap: float | None = None
) -> Tensor:
    """Return the negative log-likelihood of every target.

    Args:
        hidden: (B, T, D), the normed residual stream.
        head: (V, D), the output matrix.
        targets: (B, T), int64 in [0, V).
        softcap: see `cap_logits`.

    Returns:
        (B, T), nats, float32 (float64 for a float64 model), the dtype of the softmax.
    """
    logits_BTV = widen(F.linear(hidden, head))  # half precision loses the tail of the sum
    logits = cap_logits(logits_BTV, softcap).flatten(0, 1)
    return F.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)


def sum_head_nats(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    loss_mask: Tensor,
    softcap: float | None = None,
    z_loss: float | None = None,
) -> Tensor:
    """Return the sum of `token_nats(hidden, head, targets)[loss_mask]`, for training.

    With `z_loss` the *gradient* is that of nats + z_loss * (log Z)^2, where Z is the sum of
    exponentials of a position's logits. The value is still the nats alone, so that losses with and
    without it can be compared. Source: Chowdhery et al. 2022 (PaLM, 2204.02311), section 5.

    Rows go through the head a chunk at a time, and the gradient of a chunk (softmax minus one at
    the target) is computed directly from its logits. So the logits are never all in memory, and
    they are written and read while they are in the cache. Source: Hsu et al. 2024 (2410.10989),
    section 3.2. Only the order of additions over chunks differs from the reference.

    Args:
        hidden, head, targets, softcap: as in `token_nats`.
        loss_mask: (B, T), bool; masked positions have no effect, even if they are infinite.
        z_loss: factor of the penalty; None for no penalty.

    Returns:
        Scalar, float32 (float64 for a float64 model). Differentiable once.
    """
    rows = (hidden.flatten(0, -2), head, targets.flatten(), loss_mask.flatten())
    return _HeadNats.apply(*rows, softcap, z_loss)  # type: ignore[no-any-return, no-untyped-call]


class _HeadNats(torch.autograd.Function):
    """Loss and its gradient in one pass; backward only scales the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        loss_mask: Tensor,
        softcap: float | None,
        z_loss: float | None,
    ) -> Tensor:
        n_rows, vocab_size = hidden.shape[0], head.shape[0]
        chunk = max(GPU_CHUNK_ROWS, GPU_CHUNK_LOGITS // vocab_size)
        if hidden.device.type == "cpu":
            chunk = max(CPU_CHUNK_ROWS, CPU_CHUNK_LOGITS // vocab_size)
        sums = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        nats = torch.empty(n_rows, dtype=sums, device=hidden.device)
        d_hidden, d_head = torch.empty_like(hidden), torch.zeros_like(head, dtype=sums)
        ignored = ~loss_mask
        for begin in range(0, n_rows, chunk):
            rows = slice(begin, begin + chunk)
            here, wanted = hidden[rows], targets[rows, None]
            products = here @ head.t()
            capped = cap_logits(products if softcap is None else products.to(sums), softcap)
            shares = torch.log_softmax(capped, -1, dtype=sums)
            wanted_shares = shares.gather(1, wanted)
            nats[rows] = -wanted_shares.squeeze(1)
            slope = shares.exp_()
            if z_loss is not None:  # d (log Z)^2 = 2 log Z softmax
                log_z = capped.gather(1, wanted).to(sums) - wanted_shares
                slope.mul_(1 + 2 * z_loss * log_z)
            slope.scatter_add_(1, wanted, slope.new_full((1, 1), -1.0).expand(wanted.shape))
            if softcap is not None:  # d tanh = 1 - tanh^2
                slope.mul_(1 - (capped / softcap).square_())
            slope = slope.masked_fill_(ignored[rows, None], 0.0).to(hidden.dtype)
            torch.mm(slope, head, out=d_hidden[rows])
            if slope.dtype == sums:
                d_head.addmm_(slope.t(), here)
            else:
                d_head += slope.t() @ here
        ctx.save_for_backward(d_hidden, d_head)
        return nats.masked_fill_(ignored, 0.0).sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_sum: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_head = ctx.saved_tensors
        slopes = d_hidden * d_sum.to(d_hidden.dtype), (d_head * d_sum).to(d_hidden.dtype)
        return *slopes, None, None, None, None
