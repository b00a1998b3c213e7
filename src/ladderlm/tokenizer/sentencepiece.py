"""Meta's SentencePiece models of LLaMA 1 and 2 (`tokenizer.model`).

Owns the reading of the file, the exact conversion of ids to bytes, and the refusal of models that
cannot restore a text. The ids are those of the `sentencepiece` library.

SentencePiece puts a space before a text, writes spaces as U+2581 and reads a U+2581 of the text as
a space. Here the text is converted to that form before the library sees it, and a U+2581 of the
text is encoded by its three byte tokens, so that every string is restored.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.tokenizer.base import (
    NASTY_TEXTS,
    SENTENCEPIECE,
    Tokenizer,
    check_encodable,
    check_ids,
)

__all__ = ["SentencePieceTokenizer"]

_SPACE = "\u2581"
# Fields of ModelProto, NormalizerSpec and TrainerSpec in sentencepiece_model.proto.
_TRAINER, _NORMALIZER = 2, 3
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5
_SPACE_AS_SUFFIX = 24
_GET_AGAIN = "download it again, or compare its checksum with the published one"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with byte fallback.

    Args:
        data: content of the file.
        name: of the file, for messages.

    Attributes:
        prefix: put before every text, U+2581 or nothing.

    Raises:
        DataError: the library is missing, or the model is damaged, loses text, or has no BOS, EOS.
    """

    def __init__(self, data: bytes, name: str) -> None:
        try:
            import sentencepiece
        except ImportError:
            what = f"{name} needs the sentencepiece library, which is not installed"
            raise DataError(what, fix="run `pip install sentencepiece`") from None
        normalizer, trainer = _specs(data, name)
        self.prefix = _SPACE if normalizer.get(_DUMMY_PREFIX, 1) else ""
        if lossy := _losses(normalizer, trainer):
            raise _refusal(name, lossy)
        # A repeated field replaces the first: this turns off the library's own changes.
        spec = bytes([_DUMMY_PREFIX << 3, 0, _REMOVE_SPACES << 3, 0, _ESCAPE_SPACES << 3, 0])
        try:
            original = sentencepiece.SentencePieceProcessor(model_proto=data)
            plain = bytes([_NORMALIZER << 3 | 2, len(spec)]) + spec
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=data + plain)
        except (RuntimeError, ValueError) as error:
            what = f"{name} is not a SentencePiece model: {error}"
            raise DataError(what, fix=_GET_AGAIN) from error
        self.vocab_size = int(original.vocab_size())
        self.bos_id, self.eos_id = int(original.bos_id()), int(original.eos_id())
        self.pad_id = int(original.pad_id())
        if min(self.bos_id, self.eos_id) < 0:
            raise _refusal(name, "it has no <s> or no </s>, which begin and end a document")
        self._bytes, self._byte_ids = self._table()
        if len(self._byte_ids) < 256:
            raise _refusal(name, "it has no token for every byte (trained without byte_fallback)")
        self.fingerprint = content_hash([SENTENCEPIECE, hashlib.sha256(data).hexdigest()])
        self._prove(original, name)

    def _table(self) -> tuple[list[bytes], dict[int, int]]:
        """Return the bytes of each token, and the token of each byte."""
        table, byte_ids = [b""] * self.vocab_size, {}
        for token in range(self.vocab_size):
            piece = self._model.id_to_piece(token)
            if self._model.is_byte(token):
                byte = int(piece[3:5], 16)  # <0xE2>
                byte_ids[byte] = token
                table[token] = bytes([byte])
            elif not (self._model.is_control(token) or self._model.is_unknown(token)):
                table[token] = piece.replace(_SPACE, " ").encode()
        return table, byte_ids

    def _prove(self, original: Any, name: str) -> None:
        """Compare ids with the unchanged library, and check that hard texts are restored."""
        for text in NASTY_TEXTS:
            ids = self.encode(text)
            same = _SPACE in text or ids == original.encode(text)
            if not same or self.decode_bytes(ids) != text.encode():
                raise _refusal(name, f"decoding does not restore {text[:40]!r}")

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text; `<s>`, `</s>` and `<0x0A>` in it are plain text."""
        check_encodable(text)
        ids: list[int] = []
        if text:
            first, *rest = text.split(_SPACE)
            ids += self._model.encode(self.prefix + first.replace(" ", _SPACE))
            for part in rest:
                ids += [self._byte_ids[byte] for byte in _SPACE.encode()]
                ids += self._model.encode(part.replace(" ", _SPACE))
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def decode_bytes(self, ids: Sequence[int], *, continued: bool = False) -> bytes:
        """Return the exact bytes of ids; see `Tokenizer.decode_bytes`."""
        check_ids(ids, self.vocab_size)
        text = b"".join(self._bytes[token] for token in ids)
        first = next((token for token in ids if self._bytes[token]), None)
        if continued or not self.prefix or first is None or first in self._byte_ids.values():
            return text
        return text.removeprefix(b" ")


def _refusal(name: str, why: str) -> DataError:
    return DataError(
        f"{name} cannot be used: {why}",
        "bits per byte and samples would refer to a different text",
        "use a model with identity normalisation, byte_fallback and all spaces kept, as Meta's are",
    )


def _losses(normalizer: dict[int, Any], trainer: dict[int, Any]) -> str | None:
    """Return how a model changes texts irreversibly, or None if it does not."""
    if normalizer.get(_CHARSMAP):
        return "it normalises characters, so that different texts become equal"
    if normalizer.get(_REMOVE_SPACES, 1):
        return "it removes spaces at the ends and repeated spaces"
    if not normalizer.get(_ESCAPE_SPACES, 1):
        return "it does not write spaces as U+2581"
    if trainer.get(_SPACE_AS_SUFFIX, 0):
        return "it puts the space of a word after it"
    return None


def _specs(data: bytes, name: str) -> tuple[dict[int, Any], dict[int, Any]]:
    """Read the settings of the normaliser and the trainer: field number -> last value."""
    found: dict[int, dict[int, Any]] = {_NORMALIZER: {}, _TRAINER: {}}
    try:
        for number, value in _fields(data):
            if number in found and isinstance(value, bytes):
                found[number].update(_fields(value))
    except (IndexError, ValueError) as error:
        what = f"{name} is not a SentencePiece model, or is truncated: {error}"
        raise DataError(what, fix=_GET_AGAIN) from error
    return found[_NORMALIZER], found[_TRAINER]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the numbers of a protocol buffer's fields and their values, integers or bytes."""
    at = 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        size = number() if kind == 2 else {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or at + size > len(data):
            raise ValueError(f"there is no valid field at byte {at}")
        yield key >> 3, data[at : at + size]
        at += size
