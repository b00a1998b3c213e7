"""AdamW without the wait for a compiler that it does not use.

PyTorch wraps the methods of its optimizers so that they stand aside when somebody compiles them;
the first call loads `torch._dynamo` for that: 2.5 seconds and 75 MB in every process, more than
many runs of a ladder take to their first update. Nothing here compiles an optimizer, so the methods
are called as they are beneath.
"""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["AdamW"]


def _beneath(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a decorator was put around; the method itself where a torch has none."""
    found: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return found


_update = _beneath(torch.optim.Adam.step)


class AdamW(torch.optim.AdamW):
    """PyTorch's AdamW, its arguments and its arithmetic."""

    add_param_group = _beneath(torch.optim.Optimizer.add_param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss: float | None = _update(self, closure)
        return loss
