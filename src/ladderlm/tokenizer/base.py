"""What every tokenizer offers.

Owns the `Tokenizer` protocol, the names of the kinds and of the control tokens, and the checks
that all kinds share. Opening a tokenizer is in `load.py`.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ladderlm.changes import MetaChange
from ladderlm.errors import DataError

__all__ = [
    "BOS",
    "EOS",
    "HUGGING_FACE",
    "NASTY_TEXTS",
    "OWN",
    "RECORD",
    "SENTENCEPIECE",
    "TIKTOKEN",
    "TOKENIZER_CHANGES",
    "Tokenizer",
    "check_encodable",
    "check_ids",
]

RECORD = "ladderlm.json"
OWN, SENTENCEPIECE, TIKTOKEN, HUGGING_FACE = (
    "byte-level-bpe",
    "sentencepiece",
    "llama3-tiktoken",
    "hugging-face",
)
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"  # of our own vocabularies and LLaMA 3's
# Where encoders disagree, or lose something, if they ever do.
NASTY_TEXTS = (
    "",
    " ",
    "\n\n \t\r\n  x",
    "It's I'LL we'Ve \u017f'\u017f",
    "<|begin_of_text|>text<|end_of_text|><s></s>[INST]<|endoftext|>",
    "日本語テキスト и русский ١٢٣٤ Ⅷ ½",
    "e\u0301 👩‍👩‍👧 \u202e\u00a0\u3000\u2028\u0085x",
    "\x00\x1c\x1f\x7f" + "a" * 100 + "  !!  ??\r\r\n",
    "    def f(x):\n\treturn  12345678 # …\n",
    "\ufeff▁a▁ ▁\u2581<0x0A>  ▁ \U0010ffff\ufffd",
)


class Tokenizer(Protocol):
    """Text to token ids and back. Text never yields a control id."""

    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int  # -1: there is none, and it is never embedded
    fingerprint: str  # SHA-256 of everything that decides an id

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text, with BOS before and EOS after it if asked."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text alone, without BOS and EOS. Threads may call it together."""
        ...

    def decode_bytes(self, ids: Sequence[int], *, continued: bool = False) -> bytes:
        """Return the exact bytes; control ids give none.

        Args:
            continued: the ids follow others, so that a space which SentencePiece puts before the
                first word of a text, and which is taken off again here, stays.
        """
        ...

    def decode(self, ids: Sequence[int], *, continued: bool = False) -> str:
        """Return the text; bytes that are not UTF-8 become U+FFFD."""
        ...


def check_encodable(text: str) -> None:
    """Refuse what no UTF-8 can carry.

    Raises:
        DataError: a lone surrogate, with its place.
    """
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text holds a lone surrogate {text[error.start]!r} at character {error.start}",
            "it is not valid Unicode and has no UTF-8 bytes to count",
            "remove or replace it; with `prepare --skip-bad` the document is left out and counted",
        ) from error


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Refuse ids outside a vocabulary; -1 would be an index from the end.

    Raises:
        DataError: names the first such id.
    """
    for token in ids:
        if not 0 <= token < vocab_size:
            raise DataError(
                f"token id {token} is outside a vocabulary of {vocab_size}",
                "the ids come from another tokenizer",
            )


TOKENIZER_CHANGES = (
    MetaChange(
        "Tokenizer",
        "SentencePiece or tiktoken files are read",
        "byte-level BPE is trained as well; those files and Hugging Face's tokenizer.json are read",
        "tokenizer/",
    ),
)
