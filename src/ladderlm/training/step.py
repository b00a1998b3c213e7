"""One update: forward, backward, clip, optimizer.

Owns the arithmetic of a step: sums of nats over micro-batches and processes, divided once by the
number of targets of the global batch.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from ladderlm.data.batch import Batch
from ladderlm.model.loss import sum_head_nats
from ladderlm.training.compute import Compute
from ladderlm.training.guards import check_finite
from ladderlm.training.run_config import RunConfig
from ladderlm.training.state import TrainState

__all__ = ["Update", "accumulate_gradients", "train_step"]


@dataclass(frozen=True)
class Update:
    """Result of one step over the global batch."""

    loss: float  # nats per target
    grad_norm: float  # before clipping
    skipped: bool = False  # the scaled gradient overflowed half precision: weights are unchanged


def accumulate_gradients(
    compute: Compute,
    batch: Batch,
    n_targets: int,
    micro_batch_seqs: int,
    mask_documents: bool,
    z_loss: float | None = None,
) -> torch.Tensor:
    """Add this process's share of the gradient of the mean loss and return its sum of nats.

    Args:
        compute: its masters get the gradient, times its scale.
        batch: this process's rows.
        n_targets: targets of the *global* batch, by which every sum is divided.
        micro_batch_seqs: rows of one forward pass.
        mask_documents: pass segments, and positions that restart with each document, to the model.
        z_loss: see `sum_head_nats`.

    Returns:
        Float64 scalar, detached.
    """
    device = compute.master.tok_embeddings.weight.device
    softcap = compute.master.config.logit_softcap
    total = torch.zeros((), dtype=torch.float64, device=device)
    n_micro = compute.sharding.n_micro_batches(-(-batch.n_rows // micro_batch_seqs))
    for i in range(n_micro):
        rows = batch.rows(i * micro_batch_seqs, (i + 1) * micro_batch_seqs)
        if not rows.n_rows:  # FSDP2 needs as many passes on all processes
            rows = batch.padding_row()
        compute.sharding.announce(compute.model, last=i == n_micro - 1)
        tokens = _send(rows.tokens, device)
        positions = _send(rows.positions, device) if mask_documents else None
        segments = _send(rows.segment_ids, device) if mask_documents else None
        hidden, head = compute.hidden_and_head(tokens, positions, segments)
        targets, counted = _send(rows.targets, device), _send(rows.loss_mask, device)
        loss = sum_head_nats(hidden, head, targets, counted, softcap, z_loss)
        (loss * (compute.scale / n_targets)).backward()  # type: ignore[no-untyped-call]
        compute.collect()
        total += loss.detach().double()
    return total


def _send(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return an array as a tensor on the device; a GPU copies it asynchronously."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def train_step(state: TrainState, batch: Batch, n_targets: int, config: RunConfig) -> Update:
    """Make one update from the global batch, of which this process holds `batch`.

    If a gradient overflows fp16 and the loss scale can still be lowered, the update is skipped and
    the scale halved.

    Args:
        state: its model and optimizer are changed; the caller counts its step.
        n_targets: targets of the global batch.

    Raises:
        TrainingError: the loss or the gradient is not finite; nothing has been changed.
    """
    model, compute, sharding = state.model, state.compute, state.sharding
    rows, grad_clip = config.execution.micro_batch_seqs or batch.n_rows, config.optim.grad_clip
    masked, z_loss = config.data.mask_documents, config.train.z_loss
    model.zero_grad(set_to_none=True)
    compute.refresh()
    nats = accumulate_gradients(compute, batch, n_targets, rows, masked, z_loss)
    gradients = sharding.sum_gradients(list(model.parameters()))
    sharding.processes.sum_tensors([nats])
    norm = sharding.norm(gradients)
    loss, scaled_norm = torch.stack([nats / n_targets, norm.double()]).tolist()
    loss_scale = compute.loss_scale
    factor = 1 / compute.scale  # a power of two, so exact
    grad_norm = scaled_norm * factor
    overflow = math.isfinite(loss) and not math.isfinite(grad_norm)
    if overflow and loss_scale is not None and loss_scale.skip():
        return Update(loss, grad_norm, skipped=True)
    check_finite(loss, grad_norm, state.step + 1, batch)
    if grad_clip is not None and grad_norm > grad_clip:
        factor *= grad_clip / (grad_norm + 1e-6)
    if factor != 1:
        torch._foreach_mul_(gradients, factor)
    state.optimizer.step()
    sharding.share_weights(model)
    if loss_scale is not None:
        loss_scale.note_good()
    return Update(loss, grad_norm)
