"""`Batch`, the contract between the data and everything that computes.

Owns the shape and the checks of a batch. Uses NumPy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError

__all__ = ["Batch", "join_batches"]


@dataclass(frozen=True)
class Batch:
    """Rows as the model sees them. Every array is (B, T).

    Args:
        tokens: inputs; 0 on padding.
        targets: the next token of the same document; 0 where `loss_mask` is False.
        loss_mask: True where the target counts: never on padding, never for a BOS.
        segment_ids: number of the piece of the row, 0, 1, ...; -1 on padding.
        positions: restart at 0 with every segment.
        document_ids: index of the document in its split; -1 on padding.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    segment_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    document_ids: NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """B."""
        return len(self.tokens)

    @property
    def n_targets(self) -> int:
        """Number of positions that count in the loss."""
        return int(self.loss_mask.sum())

    def rows(self, start: int, stop: int) -> "Batch":
        """Return rows start .. stop - 1 as a batch of views, without a copy."""
        return Batch(**{name: array[start:stop] for name, array in vars(self).items()})

    def padding_row(self) -> "Batch":
        """Return one row of padding, of the same length."""
        shape = (1, self.tokens.shape[1])
        zeros, nothing = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        return Batch(zeros, zeros, np.zeros(shape, np.bool_), nothing, zeros, nothing)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise a `DataError` if an id is outside [0, vocab_size)."""
        for array in (self.tokens, self.targets):
            lowest, highest = int(array.min(initial=0)), int(array.max(initial=0))
            if lowest < 0 or highest >= vocab_size:
                raise DataError(
                    f"token ids must be in [0, {vocab_size}), a batch holds "
                    f"{lowest if lowest < 0 else highest}",
                    "data and model come from different tokenizers, or the data is damaged",
                    "run `ladderlm verify DATA`, and prepare the data with the model's tokenizer",
                )


def join_batches(batches: list[Batch]) -> Batch:
    """Stack the rows of several batches of equal T."""
    arrays = {n: np.concatenate([vars(b)[n] for b in batches]) for n in vars(batches[0])}
    return Batch(**arrays)
