"""The processes of one run.

Owns joining and leaving a torchrun group, exact sums over it, and the way from whole tensors to
those whose rows lie on several processes (PyTorch's DTensor) and back. Imports torch inside its
functions, so that torch-free floors may import this module.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ALONE", "Processes", "cut_like", "is_first_process", "local_part", "whole"]


_BUCKET = 1 << 25  # numbers of one message: 128 MiB in float32, so that no second model is built


def is_first_process() -> bool:
    """Return whether torchrun's environment makes this process rank 0; so it is without one."""
    return os.environ.get("RANK", "0") == "0"


class Processes:
    """This process's place among those of the run; by default it is alone.

    Args:
        rank, local_rank: among all processes, and among those of this machine.
        world_size: how many there are; 1: every sum is the value itself.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.world_size, self.local_rank = rank, world_size, local_rank

    @classmethod
    def join(cls, device_type: str = "cpu") -> "Processes":
        """Join the group that torchrun's environment describes; alone without one.

        Args:
            device_type: cpu joins by gloo, cuda by nccl.
        """
        names = ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")
        joined = cls(*(int(os.environ.get(name, default)) for name, default in names))
        if joined.world_size > 1:
            import torch
            import torch.distributed as group

            device = None
            if device_type == "cuda":  # each process its own, or all would use the first one
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
        """Replace each tensor by its sum over processes, by few large messages."""
        if self.world_size == 1 or not tensors:
            return
        import torch
        import torch.distributed as group

        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            group.all_reduce(flat)
            _unflatten(flat, bucket)

    def share_tensors(self, tensors: "list[Tensor]", owner: int) -> None:
        """Replace each tensor by the one that process `owner` has."""
        if self.world_size == 1 or not tensors:
            return
        import torch
        import torch.distributed as group

        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            group.broadcast(flat, src=owner)
            _unflatten(flat, bucket)

    def sum_array(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of a float64 array over processes."""
        if self.world_size == 1:
            return array
        import torch
        import torch.distributed as group

        device = "cuda" if group.get_backend() == "nccl" else "cpu"
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        group.all_reduce(tensor)
        return np.asarray(tensor.cpu().numpy(), dtype=np.float64)

    def agree(self, flag: int) -> int:
        """Return the largest flag of any process, so that all act on a signal that one has got."""
        if self.world_size == 1:
            return flag
        import torch
        import torch.distributed as group

        device = "cuda" if group.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor([flag], device=device)
        group.all_reduce(tensor, op=group.ReduceOp.MAX)
        return int(tensor.item())

    def share(self, value: Any) -> Any:
        """Return on every process what the first one passes."""
        if self.world_size == 1:
            return value
        import torch.distributed as group

        box = [value]
        group.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return on every process what each of them passes, by rank."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as group

        box: list[Any] = [None] * self.world_size
        group.all_gather_object(box, value)
        return box

    def wait(self) -> None:
        """Block until all processes have come here."""
        if self.world_size > 1:
            import torch.distributed as group

            group.barrier()

    def leave(self) -> None:
        """End the group."""
        if self.world_size > 1:
            import torch.distributed as group

            if group.is_initialized():
                group.destroy_process_group()


ALONE = Processes()


def _buckets(tensors: "list[Tensor]") -> "Iterator[list[Tensor]]":
    """Cut a list into runs of one dtype and of at most a bucket's numbers, or one tensor."""
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


def _unflatten(flat: "Tensor", tensors: "list[Tensor]") -> None:
    """Write a flat row of numbers back to where it came from."""
    at = 0
    for tensor in tensors:
        tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
        at += tensor.numel()


def _is_cut(tensor: "Tensor") -> bool:
    """Return whether it is a DTensor, without half a second of imports."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: "Tensor") -> "Tensor":
    """Gather a tensor whose rows lie on several processes, which all call this; else itself."""
    gathered: Tensor = tensor.full_tensor() if _is_cut(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def cut_like(tensor: "Tensor", like: "Tensor") -> "Tensor":
    """Return a whole tensor laid out as `like`: on its device, and cut over processes as it is."""
    tensor = tensor.to(like.device)
    if not _is_cut(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def local_part(tensor: "Tensor") -> "tuple[Tensor, int | None]":
    """Return this process's part of a tensor and its first row; None: it is the whole."""
    if not _is_cut(tensor):
        return tensor, None
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    rows = -(-tensor.shape[0] // mesh.size())  # as torch.chunk cuts: the last ones may be empty
    return tensor.to_local(), min(mesh.get_local_rank() * rows, tensor.shape[0])  # type: ignore[attr-defined]
