"""Muon for matrices and AdamW for all other parameters, in one optimizer.

Owns the orthogonalised update. `groups.py` decides which parameter uses which rule.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ladderlm.dist import cut_like, whole
from ladderlm.optim.adamw import AdamW

__all__ = ["MuonAdamW", "orthogonalize"]

# Quintic polynomial that brings singular values into about [0.7, 1.2] in five iterations.
# Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
# Root mean square of a typical AdamW update. Muon's updates are scaled to it, so that one learning
# rate fits both rules. Source: Liu et al. 2025 (2502.16982), equation 4.
RMS_OF_ADAMW = 0.2


def orthogonalize(matrices: Tensor, half: bool | None = None) -> Tensor:
    """Replace the singular values of each matrix by about 1, by Newton-Schulz iteration.

    On a GPU the multiplications are in bfloat16, as in the source. The result needs no more
    precision, and float32 would take several times as long.

    Args:
        matrices: (N, rows, columns), float.
        half: multiply in bfloat16; None for bfloat16 on a GPU only.

    Returns:
        Same shape and dtype: U f(S) V' with f(S) in about [0.7, 1.2]. A zero matrix stays zero.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrices.shape[1] <= matrices.shape[2]
    x: Tensor = matrices if wide else matrices.transpose(1, 2)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    if half or (half is None and x.device.type == "cuda"):
        x = x.bfloat16()
    for _ in range(N_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x if wide else x.transpose(1, 2)).to(matrices.dtype)


class MuonAdamW(AdamW):
    """Optimizer that updates groups whose `rule` is "muon" by Muon, and the others by AdamW.

    Muon: m <- momentum * m + g; the Nesterov direction g + momentum * m is orthogonalised,
    scaled by 0.2 * sqrt(max(rows, columns)) and applied with decoupled weight decay. Each of
    Meta's matrices is orthogonalised separately, in one batch for all of the same shape. A sharded
    matrix is gathered first, and each process keeps its rows of the result.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters once; sets the gradients of the Muon groups to None."""
        for group in self.param_groups:
            if group["rule"] == "muon":
                by_shape: dict[torch.Size, list[Tensor]] = {}
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        by_shape.setdefault(parameter.shape, []).append(parameter)
                for parameters in by_shape.values():
                    self._update_matrices(parameters, group)
        return super().step(closure)

    def _update_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape."""
        rate, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        directions = []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None  # the caller passes only those with a gradient
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].mul_(momentum).add_(gradient)
            directions.append(whole(torch.add(gradient, state["momentum"], alpha=momentum)))
            parameter.grad = None  # AdamW skips parameters without a gradient
        scale = RMS_OF_ADAMW * math.sqrt(max(parameters[0].shape))
        updates = orthogonalize(torch.stack(directions))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - rate * decay).add_(cut_like(update, parameter), alpha=-rate * scale)
