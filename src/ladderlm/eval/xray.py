"""What a model makes of a batch: the loss of every token.

Owns `token_losses`, and the small untrained model by which data without a run is looked at.
Proofs about these losses are in `proofs.py`. Shapes: B rows, T places.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ladderlm.data.batch import Batch
from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.loss import token_nats
from ladderlm.model.transformer import Transformer

__all__ = ["fresh_model", "model_inputs", "token_losses"]

LOGITS_AT_ONCE = 1 << 27  # entries; larger batches go through the model in parts


def fresh_model(vocab_size: int, seq_len: int) -> Transformer:
    """Build a small untrained model of two layers, with a head large enough to have opinions."""
    config = ModelConfig(
        dim=32, n_layers=2, n_heads=2, max_seq_len=seq_len, vocab_size=vocab_size, multiple_of=8
    )
    model = Transformer(config)
    init_weights(model, 0)
    with torch.no_grad():
        model.output.weight.mul_(10)  # the usual head starts near zero: all losses would be alike
    return model.eval()


def model_inputs(batch: Batch, mask_documents: bool, device: torch.device) -> list[Tensor]:
    """Return what training hands to the model: tokens, and under a mask positions and segments."""
    arrays = [batch.tokens, batch.positions, batch.segment_ids]
    return [torch.from_numpy(a).to(device) for a in (arrays if mask_documents else arrays[:1])]


@torch.no_grad()
def token_losses(model: Transformer, batch: Batch, mask_documents: bool) -> NDArray[np.float64]:
    """Return the nats of every place, (B, T); what stands where `loss_mask` is False means nothing.

    Args:
        model: in evaluation mode.
        mask_documents: as in training.

    Raises:
        DataError: the batch holds ids that the model has no row for.
    """
    batch.check_vocabulary(model.config.vocabulary)
    device = model.tok_embeddings.weight.device
    n_rows = max(1, LOGITS_AT_ONCE // (batch.tokens.shape[1] * model.config.vocabulary))
    nats = np.empty(batch.tokens.shape)
    for start in range(0, batch.n_rows, n_rows):
        rows = batch.rows(start, start + n_rows)
        hidden = model.hidden(*model_inputs(rows, mask_documents, device))
        targets = torch.from_numpy(rows.targets).to(device)
        found = token_nats(hidden, model.output.weight, targets, model.config.logit_softcap)
        nats[start : start + n_rows] = found.double().cpu().numpy()
    return nats
