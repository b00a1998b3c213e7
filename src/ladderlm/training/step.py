"""One update: forward, backward, clip, optimizer.

Owns the arithmetic of a step: sums of nats over micro-batches and processes, divided once by the
global count of targets.
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
    """What one step did.

    Args:
        loss: nats per target over the whole global batch.
        grad_norm: global gradient norm before clipping.
        n_targets: targets of the global batch.
        skipped: the scaled gradient overflowed half precision, so the weights were not moved.
    """

    loss: float
    grad_norm: float
    n_targets: int
    skipped: bool = False


def accumulate_gradients(
    compute: Compute,
    batch: Batch,
    n_targets: int,
    micro_batch_seqs: int,
    mask_documents: bool,
    z_loss: float | None = None,
) -> torch.Tensor:
    """Add this process's share of the gradient of the mean loss; give its sum of nats.

    Args:
        compute: what the rows go through; the gradient, times its scale, goes to its masters.
        batch: this process's rows.
        n_targets: targets of the *global* batch, by which every sum is divided.
        micro_batch_seqs: rows of one forward pass.
        mask_documents: hand segments and restarting positions to the model.
        z_loss: as in `sum_head_nats`.

    Returns:
        Sum of nats over the rows, float64 scalar, detached.
    """
    device = compute.master.tok_embeddings.weight.device
    softcap = compute.master.config.logit_softcap
    total = torch.zeros((), dtype=torch.float64, device=device)
    n_micro = compute.sharding.n_micro_batches(-(-batch.n_rows // micro_batch_seqs))
    for i in range(n_micro):
        rows = batch.rows(i * micro_batch_seqs, (i + 1) * micro_batch_seqs)
        if not rows.n_rows:  # others still have some, and all must go through the layers together
            rows = batch.padding_row()
        compute.sharding.announce(compute.model, last=i == n_micro - 1)
        tokens = _send(rows.tokens, device)
        positions = segments = None
        if mask_documents:
            positions = _send(rows.positions, device)
            segments = _send(rows.segment_ids, device)
        hidden, head = compute.hidden_and_head(tokens, positions, segments)
        targets, counted = _send(rows.targets, device), _send(rows.loss_mask, device)
        loss = sum_head_nats(hidden, head, targets, counted, softcap, z_loss)
        (loss * (compute.scale / n_targets)).backward()  # type: ignore[no-untyped-call]
        compute.collect()
        total += loss.detach().double()
    return total


def _send(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Give an array as a tensor on the device; a GPU fetches it while it computes."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def train_step(state: TrainState, batch: Batch, n_targets: int, config: RunConfig) -> Update:
    """Make one update from the global batch, of which this process holds `batch`.

    A gradient that overflows fp16 is the loss scale's fault as long as that can be lowered: the
    update is skipped, and the next one is made with half the scale.

    Args:
        state: its model and optimizer are changed; its step, which is counted by the caller, is
            named in errors.
        n_targets: as in `accumulate_gradients`.
        config: how large micro-batches are, what is masked and where the gradient is clipped.

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
    scale, loss_scale = compute.scale, compute.loss_scale
    grad_norm = scaled_norm / scale
    overflow = math.isfinite(loss) and not math.isfinite(grad_norm)
    if overflow and loss_scale is not None and loss_scale.skip():
        return Update(loss, grad_norm, n_targets, skipped=True)
    check_finite(loss, grad_norm, state.step + 1, batch)
    factor = 1 / scale
    if grad_clip is not None and grad_norm > grad_clip:
        factor *= grad_clip / (grad_norm + 1e-6)
    if factor != 1:
        torch._foreach_mul_(gradients, factor)
    state.optimizer.step()
    sharding.share_weights(model)
    if loss_scale is not None:
        loss_scale.note_good()
    return Update(loss, grad_norm, n_targets)
