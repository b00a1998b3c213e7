"""A model as the meter sees it.

Owns the `Scorer` protocol (token ids in, nats out) and its one implementation, for our own
`Transformer`. The protocol is the seam for models of other libraries: the meter knows nothing else
of a model.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ladderlm.model.loss import token_nats
from ladderlm.model.precision import widen
from ladderlm.model.transformer import Transformer

__all__ = ["Scorer", "TransformerScorer", "precision_of"]

LOGITS_IN_MEMORY = 1 << 25  # of one piece of the head's product: 128 MiB in float32


class Scorer(Protocol):
    """Nats of targets, given the tokens before them. Causal: no target sees what follows it."""

    vocab_size: int  # ids that can be read and scored
    max_context: int  # tokens that a row may hold

    def nats(
        self,
        tokens: NDArray[np.int64],
        targets: NDArray[np.int64],
        scored: NDArray[np.bool_],
        segment_ids: NDArray[np.int64] | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Score the chosen targets.

        Args:
            tokens, targets: (B, T).
            scored: (B, T), which targets count; the others are context or padding.
            segment_ids: (B, T), a token sees only earlier ones of its own segment, -1 is padding;
                None: one window a row, padded at its end.
            positions: (B, T), from 0 in each segment; None: 0 .. T - 1.

        Returns:
            One number for each True of `scored`, in row-major order.
        """
        ...


def precision_of(model: nn.Module) -> str:
    """Return the name of the dtype of a model's weights, for example float32."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


class TransformerScorer:
    """Score with our own model.

    The head's product and the softmax are taken in float32 (float64 for a float64 model) whatever
    the weights' dtype: logits that are rounded to bfloat16 would carry errors of 1 in 256.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.vocab_size = model.config.vocabulary
        self.max_context = model.config.max_seq_len

    @torch.inference_mode()
    def nats(
        self,
        tokens: NDArray[np.int64],
        targets: NDArray[np.int64],
        scored: NDArray[np.bool_],
        segment_ids: NDArray[np.int64] | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Score the chosen targets; see `Scorer.nats`."""
        device = self.model.tok_embeddings.weight.device
        tokens_BT, targets_BT, scored_BT = (
            torch.from_numpy(array).to(device) for array in (tokens, targets, scored)
        )
        segments, places = (
            None if array is None else torch.from_numpy(array).to(device)
            for array in (segment_ids, positions)
        )
        hidden_BTD = self.model.hidden(tokens_BT, places, segments)
        hidden_ND, targets_N = widen(hidden_BTD[scored_BT]), targets_BT[scored_BT]
        head_VD = widen(self.model.output.weight)
        n, softcap = max(1, LOGITS_IN_MEMORY // self.vocab_size), self.model.config.logit_softcap
        pieces = [
            token_nats(hidden_ND[None, at : at + n], head_VD, targets_N[None, at : at + n], softcap)
            for at in range(0, len(targets_N), n)
        ]
        if not pieces:
            return np.empty(0)
        return np.asarray(torch.cat(pieces, dim=1)[0].double().cpu().numpy())
