"""What every tokenizer offers, and how its folder is read and copied.

Owns the `Tokenizer` protocol, `load_tokenizer`, which tells the kinds apart by their files, and
the record `ladderlm.json` beside a tokenizer's one file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ladderlm.changes import MetaChange
from ladderlm.errors import DataError
from ladderlm.files import publish, read_json, sha256_file

__all__ = [
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
    "copy_tokenizer",
    "load_tokenizer",
    "tokenizer_files",
]

RECORD = "ladderlm.json"
OWN, SENTENCEPIECE, TIKTOKEN, HUGGING_FACE = (
    "byte-level-bpe",
    "sentencepiece",
    "llama3-tiktoken",
    "hugging-face",
)
_FILES = {
    OWN: "tokenizer.json",
    HUGGING_FACE: "tokenizer.json",
    SENTENCEPIECE: "tokenizer.model",
    TIKTOKEN: "tokenizer.model",
}
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
_RESTORE = "restore the folder, or make it again with `ladderlm tokenizer train` or `import`"


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

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text alone, without BOS and EOS. Threads may call it together."""
        ...

    def decode_bytes(self, ids: Sequence[int], *, continued: bool = False) -> bytes:
        """Give the exact bytes; control ids give none.

        Args:
            continued: the ids follow others, so that a space which SentencePiece puts before the
                first word of a text, and which is taken off again here, stays.
        """
        ...

    def decode(self, ids: Sequence[int], *, continued: bool = False) -> str:
        """Give the text; bytes that are not UTF-8 become U+FFFD."""
        ...


def load_tokenizer(place: Path | str) -> Tokenizer:
    """Open a tokenizer: a folder of ours, or a foreign file or folder as it is.

    Raises:
        DataError: missing, damaged, changed since it was recorded, or of a kind that is not known.
    """
    place = Path(place)
    if not (place / RECORD).is_file():
        from ladderlm.tokenizer.foreign import open_foreign

        return open_foreign(place)
    record = _read_record(place)
    path = place / _FILES[record["model"]]
    tokenizer: Tokenizer
    if record["model"] == OWN:
        from ladderlm.tokenizer.bpe_file import load_own

        tokenizer = load_own(path)
    else:
        from ladderlm.tokenizer.foreign import open_recorded

        tokenizer = open_recorded(path, record)
    if record["fingerprint"] != tokenizer.fingerprint:
        raise DataError(
            f"{path} does not match the fingerprint in {place / RECORD}",
            "ids would not mean what they meant when the data was prepared",
            _RESTORE,
        )
    return tokenizer


def _read_record(folder: Path) -> dict[str, Any]:
    """Read `ladderlm.json` and compare the tokenizer's file with it, byte for byte."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not {"fingerprint", "sha256"} <= record.keys():
        raise DataError(
            f"{folder / RECORD} records no fingerprint and sha256 of a tokenizer",
            "nothing would show a changed byte",
            _RESTORE,
        )
    record.setdefault("model", OWN)
    if record["model"] not in list(_FILES):  # it may be of any type
        raise DataError(
            f"{folder / RECORD} names a model {record['model']!r} that is not known",
            f"known are {', '.join(_FILES)}",
            "it may come from a newer ladderlm: update, or " + _RESTORE,
        )
    path = folder / _FILES[record["model"]]
    if not path.is_file():
        raise DataError(f"{folder} holds no {path.name}", f"{RECORD} speaks of it", _RESTORE)
    if record["sha256"] != sha256_file(path):
        raise DataError(
            f"{path} does not match the sha256 in {folder / RECORD}",
            "a byte of it was changed",
            _RESTORE,
        )
    return record


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files of a tokenizer folder of ours; the record, last, vouches for the other."""
    return [folder / _FILES[_read_record(folder)["model"]], folder / RECORD]


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put a tokenizer into a folder that others can load; a foreign one is imported.

    Raises:
        DataError: as `load_tokenizer`.
    """
    if not (source / RECORD).is_file():
        from ladderlm.tokenizer.foreign import import_tokenizer

        import_tokenizer(source, folder)
        return
    for path in tokenizer_files(source):
        data = path.read_bytes()
        publish(folder / path.name, lambda stream, data=data: stream.write(data))  # type: ignore[misc]


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
