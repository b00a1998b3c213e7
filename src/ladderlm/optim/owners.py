"""Assign the optimizer state of each parameter to a process.

Owns the division by whole tensors: each of Meta's matrices has one owner, which orthogonalises it
and keeps its moments. Source: Rajbhandari et al. 2020 (1910.02054), section 5.1 (their first
stage), here by tensors instead of by equal parts.
"""

from torch import nn

__all__ = ["owners_of"]


def owners_of(model: nn.Module, world_size: int) -> dict[str, int]:
    """Return the owner of each parameter, giving the largest first to the least loaded process.

    A pure function of shapes and names, so all processes compute the same owners.
    """
    loads = [0] * world_size
    owners = {}
    for name, parameter in sorted(model.named_parameters(), key=lambda p: (-p[1].numel(), p[0])):
        owners[name] = owner = loads.index(min(loads))
        loads[owner] += parameter.numel()
    return owners
