"""The processes of one run.

Owns joining and leaving a torchrun group, and exact sums over it. Imports torch inside its
functions, so that torch-free floors may import this module.
"""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Processes", "is_first_process"]


def is_first_process() -> bool:
    """Say whether this process is rank 0 (or alone), by torchrun's environment alone."""
    return os.environ.get("RANK", "0") == "0"


class Processes:
    """This process's place among those of the run.

    Args:
        device_type: cpu joins by gloo, cuda by nccl.
    """

    def __init__(self, device_type: str = "cpu") -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if self.world_size > 1:
            import torch.distributed as group

            if not group.is_initialized():
                group.init_process_group("nccl" if device_type == "cuda" else "gloo")

    @property
    def first(self) -> bool:
        """True on the one process that writes files."""
        return self.rank == 0

    def sum_tensors(self, tensors: "list[Tensor]") -> None:
        """Replace each tensor by its sum over processes, by one message for all of them."""
        if self.world_size == 1 or not tensors:
            return
        import torch
        import torch.distributed as group

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        group.all_reduce(flat)
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()

    def sum_array(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the sum of a float64 array over processes."""
        if self.world_size == 1:
            return array
        import torch
        import torch.distributed as group

        device = "cuda" if group.get_backend() == "nccl" else "cpu"
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        group.all_reduce(tensor)
        return np.asarray(tensor.cpu().numpy(), dtype=np.float64)

    def agree(self, flag: int) -> int:
        """Give the largest flag of any process, so that all act on a signal that one has got."""
        if self.world_size == 1:
            return flag
        import torch
        import torch.distributed as group

        device = "cuda" if group.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor([flag], device=device)
        group.all_reduce(tensor, op=group.ReduceOp.MAX)
        return int(tensor.item())

    def share(self, value: Any) -> Any:
        """Give every process what the first one passes."""
        if self.world_size == 1:
            return value
        import torch.distributed as group

        box = [value]
        group.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.world_size > 1:
            import torch.distributed as group

            group.barrier()

    def leave(self) -> None:
        """End the group."""
        if self.world_size > 1:
            import torch.distributed as group

            if group.is_initialized():
                group.destroy_process_group()
