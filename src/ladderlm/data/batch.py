"""`Batch`: the one contract between data and everything that computes.

Owns the shape and the checks of a batch. Numpy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError

__all__ = ["Batch", "join_batches"]


@dataclass(frozen=True)
class Batch:
    """Rows as the model sees them; every array is (B, T).

    Args:
        tokens: int64, inputs. Padding holds 0.
        targets: int64, the next token of the same document. 0 where `loss_mask` is False.
        loss_mask: bool, True where the target counts: never on padding, never for a BOS.
        segment_ids: int64, which piece of the row a token belongs to, 0, 1, ...; -1 is padding.
        positions: int64, restarting at 0 with every segment.
        document_ids: int64, index of the document in its split; -1 on padding.
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
        return int(self.tokens.shape[0])

    @property
    def n_targets(self) -> int:
        """How many positions count in the loss."""
        return int(self.loss_mask.sum())

    def rows(self, start: int, stop: int) -> "Batch":
        """Return rows start .. stop - 1 as a batch of their own (views, no copy)."""
        return Batch(**{name: array[start:stop] for name, array in vars(self).items()})

    def padding_row(self) -> "Batch":
        """Return a row of padding alone, as long as these."""
        shape = (1, self.tokens.shape[1])
        zeros, nothing = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        return Batch(zeros, zeros, np.zeros(shape, np.bool_), nothing, zeros, nothing)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse ids that the model has no row for.

        Raises:
            DataError: an id is outside [0, vocab_size).
        """
        for array in (self.tokens, self.targets):
            if not array.size:
                continue
            lowest, highest = int(array.min()), int(array.max())
            if lowest < 0 or highest >= vocab_size:
                wrong = lowest if lowest < 0 else highest
                raise DataError(
                    f"token id {wrong} in a batch for a vocabulary of {vocab_size}",
                    "data and model come from different tokenizers, or the data is damaged",
                    "run `ladderlm verify DATA`, and prepare the data with the model's tokenizer",
                )


def join_batches(batches: list[Batch]) -> Batch:
    """Stack the rows of several batches of equal T."""
    arrays = {n: np.concatenate([vars(b)[n] for b in batches]) for n in vars(batches[0])}
    return Batch(**arrays)
