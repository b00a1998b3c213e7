"""The interface of all tokenizers.

Owns the `Tokenizer` protocol, the names of the kinds and of the control tokens, the record of a
tokenizer folder, and the checks that all kinds share. `load.py` opens a tokenizer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ladderlm.changes import MetaChange
from ladderlm.errors import DataError
from ladderlm.files import publish_json

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
    "publish_record",
]

RECORD = "ladderlm.json"
OWN, HUGGING_FACE = "byte-level-bpe", "hugging-face"
SENTENCEPIECE, TIKTOKEN = "sentencepiece", "llama3-tiktoken"
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"  # of our own vocabularies and LLaMA 3's
# Texts on which encoders are most likely to disagree or to lose characters.
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
    """Conversion between text and token ids. Text never yields a control id."""

    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int  # -1: the vocabulary has none; it is never embedded
    fingerprint: str  # SHA-256 of everything that determines an id

    @property
    def n_words(self) -> int:
        """Meta's name for the size of the vocabulary."""
        return self.vocab_size

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text. Strings that look like control tokens are plain text.

        Raises:
            DataError: the text contains a lone surrogate, which UTF-8 cannot encode.
        """
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text, without BOS and EOS. Thread-safe."""
        return [np.array(self.encode(text), np.uint32) for text in texts]

    def decode_bytes(self, ids: Sequence[int], *, continued: bool = False) -> bytes:
        """Return the exact bytes of ids; control ids have none.

        Args:
            continued: the ids follow others. SentencePiece puts a space before the first word of
                a text, which is removed again unless this is set.

        Raises:
            DataError: an id outside the vocabulary.
        """
        ...

    def decode(self, ids: Sequence[int], *, continued: bool = False) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids, continued=continued).decode("utf-8", "replace")


def publish_record(
    folder: Path, tokenizer: Tokenizer, model: str, sha256: str, facts: dict[str, Any]
) -> None:
    """Publish `ladderlm.json`: a tokenizer's kind, its ids, its file's sha256 and further facts."""
    record = {
        "kind": "ladderlm-tokenizer",
        "format_version": 1,
        "model": model,
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        **({} if model == OWN else {"pad_id": tokenizer.pad_id}),
        "sha256": sha256,
        **facts,
    }
    publish_json(folder / RECORD, record)


def check_encodable(text: str) -> None:
    """Raise DataError for a lone surrogate, which UTF-8 cannot encode, and name its position."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text contains a lone surrogate {text[error.start]!r} at character {error.start}",
            "it has no UTF-8 bytes to count",
            "remove or replace it, or leave such documents out with `prepare --skip-bad`",
        ) from error


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raise DataError for ids outside a vocabulary, and name the first one."""
    for token in ids:  # a negative one would index from the end
        if not 0 <= token < vocab_size:
            raise DataError(
                f"token id {token} is outside a vocabulary of {vocab_size}",
                fix="use the tokenizer that the ids come from",
            )


TOKENIZER_CHANGES = (
    MetaChange(
        "Tokenizer",
        "SentencePiece or tiktoken files are read",
        "byte-level BPE is trained as well; those files and Hugging Face's tokenizer.json are read",
        "tokenizer/",
    ),
)
