"""Connect the processes of one run.

Owns joining and leaving a torchrun group, exact sums over it, and the conversion between whole
tensors and those whose rows are sharded over processes (PyTorch's DTensor). Imports torch inside
its functions, so that torch-free rooms may import this module.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ALONE", "Processes", "cut_like", "is_first_process", "local_part", "whole"]

_BUCKET = 1 << 25  # numbers per message: 128 MiB in float32, far less than a copy of the model


def is_first_process() -> bool:
    """Return whether this process has rank 0, or was not started by torchrun."""
    return os.environ.get("RANK", "0") == "0"


class Processes:
    """Group of the run's processes, as seen by one of them; by default a group of one.

    Args:
        rank, local_rank: index among all processes, and among those of this machine.
        world_size: number of processes. With one, every sum is the value itself.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.world_size, self.local_rank = rank, world_size, local_rank

    @classmethod
    def join(cls, device_type: str = "cpu") -> "Processes":
        """Join the group that torchrun's environment describes, or return a group of one.

        Args:
            device_type: cpu uses gloo, cuda uses nccl.
        """
        names = ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")
        joined = cls(*(int(os.environ.get(name, default)) for name, default in names))
        if joined.world_size > 1:
            import torch
            import torch.distributed as group

            device = None
            if device_type == "cuda":  # otherwise all processes would use the first one
                device = torch.device("cuda", joined.local_rank)
                torch.cuda.set_device(device)
            if not group.is_initialized():
                backend = "nccl" if device_type == "cuda" else "gloo"
                group.init_process_group(backend, device_id=device)
        return joined

    @property
    def first(self) -> bool:
        """True on the one process that writes files."""
        return self.rank == 0

    def sum_tensors(self, tensors: "list[Tensor]") -> None:
        """Replace each tensor by its sum over processes."""
        self._exchange(tensors, None)

    def share_tensors(self, tensors: "list[Tensor]", owner: int) -> None:
        """Replace each tensor by that of process `owner`."""
        self._exchange(tensors, owner)

    def _exchange(self, tensors: "list[Tensor]", owner: int | None) -> None:
        """Sum tensors over processes, or copy those of `owner`, using few large messages."""
        if self.world_size == 1:
            return
        import torch
        import torch.distributed as group

        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            if owner is None:
                group.all_reduce(flat)
            else:
                group.broadcast(flat, src=owner)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum_array(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of a float64 array over processes."""
        return self._reduce(array, "SUM")

    def agree(self, flag: int) -> int:
        """Return the largest flag of any process, so that all act on a signal to one of them."""
        return int(self._reduce(np.array([flag]), "MAX")[0])

    def _reduce(self, array: NDArray[Any], operation: str) -> NDArray[Any]:
        """Reduce an array over processes, on the device of the group's backend."""
        if self.world_size == 1:
            return array
        import torch
        import torch.distributed as group

        device = "cuda" if group.get_backend() == "nccl" else "cpu"
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        group.all_reduce(tensor, op=getattr(group.ReduceOp, operation))
        return np.asarray(tensor.cpu().numpy())

    def share(self, value: Any) -> Any:
        """Return the first process's value on every process."""
        if self.world_size == 1:
            return value
        import torch.distributed as group

        box = [value]
        group.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, on every process."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as group

        box: list[Any] = [None] * self.world_size
        group.all_gather_object(box, value)
        return box

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.world_size > 1:
            import torch.distributed as group

            group.barrier()

    def leave(self) -> None:
        """Leave the group."""
        if self.world_size > 1:
            import torch.distributed as group

            if group.is_initialized():
                group.destroy_process_group()


ALONE = Processes()


def _buckets(tensors: "list[Tensor]") -> "Iterator[list[Tensor]]":
    """Yield runs of tensors of one dtype, each of at most `_BUCKET` numbers or a single tensor."""
    bucket: list[Tensor] = []
    n_numbers = 0
    for tensor in tensors:
        if bucket and (n_numbers + tensor.numel() > _BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, n_numbers = [], 0
        bucket.append(tensor)
        n_numbers += tensor.numel()
    if bucket:
        yield bucket


def _is_cut(tensor: "Tensor") -> bool:
    """Return whether a tensor is a DTensor, without importing it, which takes half a second."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: "Tensor") -> "Tensor":
    """Return a tensor with all its rows. All processes of a sharded one must call this."""
    gathered: Tensor = tensor.full_tensor() if _is_cut(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def cut_like(tensor: "Tensor", like: "Tensor") -> "Tensor":
    """Return a whole tensor on the device of `like`, sharded over processes in the same way."""
    tensor = tensor.to(like.device)
    if not _is_cut(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def local_part(tensor: "Tensor") -> "tuple[Tensor, int | None]":
    """Return this process's part of a tensor and its first row, which is None for a whole one."""
    if not _is_cut(tensor):
        return tensor, None
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    rows = -(-tensor.shape[0] // mesh.size())  # as in torch.chunk; the last parts may be empty
    return tensor.to_local(), min(mesh.get_local_rank() * rows, tensor.shape[0])  # type: ignore[attr-defined]
