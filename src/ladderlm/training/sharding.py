"""The distribution of weights and optimizer state over the processes of a run.

Owns the three kinds: every process has everything; each keeps the optimizer's state of the
parameters it owns; or FSDP2 splits every tensor by rows. All give the same update as one process,
up to the order of additions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ladderlm.checkpoint.save import optimizer_tensors
from ladderlm.dist import Processes, local_part, whole
from ladderlm.errors import ConfigError
from ladderlm.model.transformer import Transformer
from ladderlm.optim.owners import owners_of

__all__ = ["Sharding"]

Kind = Literal["none", "optimizer", "weights"]


class Sharding:
    """Distribution of tensors over processes, and the communication of a step.

    Args:
        processes: processes of the run; with one, every kind becomes "none".
        kind: see `ExecutionConfig.shard`.
    """

    def __init__(self, processes: Processes, kind: Kind = "none") -> None:
        self.processes = processes
        self.kind: Kind = kind if processes.world_size > 1 else "none"
        self.owners: dict[str, int] = {}

    def prepare(self, model: Transformer, half: torch.dtype | None) -> None:
        """Distribute the weights; called once, before the optimizer is built.

        Args:
            half: dtype that FSDP2 casts whole weights to; None: no cast.

        Raises:
            ConfigError: there are more processes than tensors.
        """
        if self.kind == "optimizer":
            self.owners = owners_of(model, self.processes.world_size)
            if len(set(self.owners.values())) < self.processes.world_size:
                raise ConfigError(
                    f"execution.shard = 'optimizer' needs a tensor of the model for each process, "
                    f"got {len(self.owners)} for {self.processes.world_size}",
                    fix="set execution.shard to 'none' or 'weights', or start fewer processes",
                )
        if self.kind != "weights":
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import (
            FSDPModule,
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )

        device = model.tok_embeddings.weight.device.type
        mesh = init_device_mesh(device, (self.processes.world_size,))
        # Inputs are not cast: the angles stay float32, and the stream follows the weights.
        policy = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
        for layer in model.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        register_fsdp_forward_method(model, "hidden")
        for module in model.modules():
            if isinstance(module, FSDPModule):  # sum, not mean: the loss is divided already
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    @property
    def owned(self) -> set[str] | None:
        """Names of the parameters whose state this process keeps; None: all."""
        if self.kind != "optimizer":
            return None
        return {name for name, owner in self.owners.items() if owner == self.processes.rank}

    def n_micro_batches(self, own: int) -> int:
        """Return the number of micro-batches of this process; FSDP2 needs it equal on all."""
        return self.processes.agree(own) if self.kind == "weights" else own

    def announce(self, model: Any, last: bool) -> None:
        """Let FSDP2 sum gradients only in the step's last micro-batch."""
        if self.kind == "weights":
            model.set_requires_gradient_sync(last)

    def sum_gradients(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Sum gradients over processes, unless FSDP2 has, and return this process's parts."""
        for parameter in parameters:
            if parameter.grad is None:  # a process without rows takes part in the sum
                parameter.grad = torch.zeros_like(parameter)
        gradients = [local_part(p.grad)[0] for p in parameters if p.grad is not None]
        if self.kind != "weights":
            self.processes.sum_tensors(gradients)
        return gradients

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the global norm of gradients from `sum_gradients`."""
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        norm: Tensor = torch.linalg.vector_norm(norms)
        if self.kind != "weights":
            return norm
        square = norm.double().square()
        self.processes.sum_tensors([square])
        return torch.sqrt(square)

    def share_weights(self, model: nn.Module) -> None:
        """Send the weights that their owners have updated to all processes."""
        if self.kind != "optimizer":
            return
        with torch.no_grad():
            for rank in range(self.processes.world_size):
                own = [p.detach() for n, p in model.named_parameters() if self.owners[n] == rank]
                self.processes.share_tensors(own, rank)

    @contextmanager
    def whole(self, model: Transformer, filled: bool = True) -> Iterator[Transformer]:
        """Yield a model with all float32 weights on this process, for scoring and sampling.

        FSDP2's rows are gathered into a second model, which is dropped afterwards.

        Args:
            filled: copy the present weights; False: the caller loads others.
        """
        if self.kind != "weights":
            yield model
            return
        replica = Transformer(model.config).to(model.tok_embeddings.weight.device)
        replica.train(model.training)
        copies = dict(replica.named_parameters())
        if filled:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    copies[name].copy_(whole(parameter))
        yield replica

    def whole_on_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather named tensors on the CPU of the first process; the others get none."""
        if self.kind != "weights":
            return tensors
        gathered = {}
        for name, tensor in tensors.items():
            full = whole(tensor)
            if self.processes.first:
                gathered[name] = full.detach().cpu()
        return gathered

    def own_state(self, optimizer: torch.optim.Optimizer) -> dict[str, tuple[Tensor, int | None]]:
        """Return this process's part of the optimizer's state: name -> (part, its first row)."""
        found = {}
        for name, tensor in optimizer_tensors(optimizer).items():
            part, begin = local_part(tensor)
            replicated = begin is None and self.kind == "weights"  # counts of updates
            if part.numel() and (self.processes.first or not replicated):
                found[name] = part, begin
        return found
