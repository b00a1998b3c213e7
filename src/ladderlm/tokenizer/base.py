"""What every tokenizer offers.

Owns the `Tokenizer` protocol and `load_tokenizer`, which tells the kinds apart by their files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tokenizer", "load_tokenizer"]


class Tokenizer(Protocol):
    """Text to token ids and back. Text never yields a control id."""

    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int  # -1: there is none, and it is never embedded
    fingerprint: str  # SHA-256 of everything that decides an id

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Give the ids of a text, with BOS before and EOS after it if asked."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Give the ids of each text alone, without BOS and EOS."""
        ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Give the exact bytes; control ids give none."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text; bytes that are not UTF-8 become U+FFFD."""
        ...


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Open a tokenizer folder written by `ladderlm tokenizer train`.

    Raises:
        DataError: missing, damaged, or of a kind that is not known.
    """
    from ladderlm.tokenizer.bpe import BytePairTokenizer

    return BytePairTokenizer.load(Path(folder))
