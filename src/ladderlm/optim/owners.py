"""Which process keeps the optimizer's state of which parameter.

Owns the division by whole tensors: each of Meta's matrices has one owner, which alone
orthogonalises it and keeps its moments. Source: Rajbhandari et al. 2020 (1910.02054), section 5.1
(their first stage), here by tensors instead of by equal parts.
"""

from torch import nn

__all__ = ["owners_of"]


def owners_of(model: nn.Module, world_size: int) -> dict[str, int]:
    """Return the owner of each parameter; the largest go first, each to who has least so far.

    A pure function of shapes and names, so all processes find the same.
    """
    loads = [0] * world_size
    owners = {}
    for name, parameter in sorted(model.named_parameters(), key=lambda p: (-p[1].numel(), p[0])):
        owner = loads.index(min(loads))
        owners[name] = owner
        loads[owner] += parameter.numel()
    return owners
