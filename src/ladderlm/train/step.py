"""One update: forward, backward, clip, optimizer.

Owns the arithmetic of a step: sums of nats over micro-batches and processes, divided once by the
global count of targets.
"""

import math
from dataclasses import dataclass

import torch

from ladderlm.data.batch import Batch
from ladderlm.dist import Processes
from ladderlm.model.loss import sum_head_nats
from ladderlm.model.transformer import Transformer
from ladderlm.train.compute import Compute
from ladderlm.train.guards import check_finite

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
    for start in range(0, batch.n_rows, micro_batch_seqs):
        rows = batch.rows(start, start + micro_batch_seqs)
        tokens = torch.from_numpy(rows.tokens).to(device)
        positions = segments = None
        if mask_documents:
            positions = torch.from_numpy(rows.positions).to(device)
            segments = torch.from_numpy(rows.segment_ids).to(device)
        hidden, head = compute.hidden_and_head(tokens, positions, segments)
        targets, counted = (
            torch.from_numpy(array).to(device) for array in (rows.targets, rows.loss_mask)
        )
        loss = sum_head_nats(hidden, head, targets, counted, softcap, z_loss)
        (loss * (compute.scale / n_targets)).backward()  # type: ignore[no-untyped-call]
        compute.collect()
        total += loss.detach().double()
    return total


def train_step(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    n_targets: int,
    *,
    step: int,
    micro_batch_seqs: int,
    mask_documents: bool,
    grad_clip: float | None,
    processes: Processes,
    compute: Compute | None = None,
    z_loss: float | None = None,
) -> Update:
    """Make one update from the global batch, of which this process holds `batch`.

    Args: as in `accumulate_gradients`; step counts from 1 and is named in errors; compute is what
        the step runs through, by default the model itself.

    A gradient that overflows fp16 is the loss scale's fault as long as that can be lowered: the
    update is skipped, and the next one is made with half the scale.

    Raises:
        TrainingError: the loss or the gradient is not finite; nothing has been changed.
    """
    optimizer.zero_grad(set_to_none=True)
    compute = compute or Compute(model)
    compute.refresh()
    nats = accumulate_gradients(compute, batch, n_targets, micro_batch_seqs, mask_documents, z_loss)
    parameters = list(model.parameters())
    for parameter in parameters:
        if parameter.grad is None:  # a process without rows still takes part in the sum
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    processes.sum_tensors(gradients)
    processes.sum_tensors([nats])
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    loss, scaled_norm = torch.stack([nats / n_targets, norm.double()]).tolist()
    scale, loss_scale = compute.scale, compute.loss_scale
    grad_norm = scaled_norm / scale
    overflow = math.isfinite(loss) and not math.isfinite(grad_norm)
    if overflow and loss_scale is not None and loss_scale.skip():
        return Update(loss, grad_norm, n_targets, skipped=True)
    check_finite(loss, grad_norm, step, sorted({int(d) for d in batch.document_ids.ravel()} - {-1}))
    factor = 1 / scale
    if grad_clip is not None and grad_norm > grad_clip:
        factor *= grad_clip / (grad_norm + 1e-6)
    if factor != 1:
        torch._foreach_mul_(gradients, factor)
    optimizer.step()
    if loss_scale is not None:
        loss_scale.note_good()
    return Update(loss, grad_norm, n_targets)
