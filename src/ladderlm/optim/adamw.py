"""PyTorch's AdamW without loading its compiler.

Owns `AdamW`. PyTorch wraps the methods of its optimizers for use with torch.compile, and the first
call loads `torch._dynamo`: 2.5 seconds and 75 MB in every process, more than many runs of a ladder
need for their first update. We do not compile optimizers, so the unwrapped methods are called.
"""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["AdamW"]


def _unwrap(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method without its decorator, or unchanged if this PyTorch has none."""
    found: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return found


_update = _unwrap(torch.optim.Adam.step)


class AdamW(torch.optim.AdamW):
    """AdamW with the arguments and arithmetic of PyTorch's."""

    add_param_group = _unwrap(torch.optim.Optimizer.add_param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss: float | None = _update(self, closure)
        return loss
