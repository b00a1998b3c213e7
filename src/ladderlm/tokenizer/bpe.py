"""Byte-level byte-pair encoding.

Owns the encoders, which return the same ids: tiktoken where it is installed, fastokens for batches
(`fast.py`), and a slow one in plain Python, which is the reference in the tests and the fallback of
the bare runner. The file format is in `bpe_file.py`, training in `train.py`.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.tokenizer.base import BOS, EOS, Tokenizer, check_encodable, check_ids
from ladderlm.tokenizer.bpe_file import tokenizer_json
from ladderlm.tokenizer.fast import BatchEncoder
from ladderlm.tokenizer.split import (
    SPLIT_PATTERN,
    cut_long_spaces,
    has_long_spaces,
    split_reference,
)

__all__ = ["BytePairTokenizer", "encode_reference"]


def encode_reference(text: str, ranks: Mapping[bytes, int]) -> list[int]:
    """Encode a text the slow way: in each piece, merge the pair of lowest rank while there is one.

    Source: Sennrich et al. 2016, algorithm 1, on bytes. Quadratic in the length of a piece.
    """
    ids: list[int] = []
    for piece in split_reference(text):
        parts = [bytes([byte]) for byte in piece.encode("utf-8")]
        while len(parts) > 1:
            merged = [ranks.get(parts[i] + parts[i + 1]) for i in range(len(parts) - 1)]
            known = [rank for rank in merged if rank is not None]
            if not known:
                break
            i = merged.index(min(known))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids.extend(ranks[part] for part in parts)
    return ids


class BytePairTokenizer(Tokenizer):
    """A byte-level BPE. Text yields tokens of `ranks` only.

    Args:
        ranks: bytes of each token -> its id, which is also the order of merging.
        pattern: regular expression that splits a text into pieces.
        controls: names and ids that no text yields. Default: BOS and EOS after the last rank.
        bos, eos: names of the controls that begin and end a document.
        fingerprint: default: the hash of ranks, pattern and names.
        spare: another encoder, for texts that tiktoken cannot split with a foreign pattern.
    """

    pad_id = -1

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        *,
        pattern: str = SPLIT_PATTERN,
        controls: Mapping[str, int] | None = None,
        bos: str = BOS,
        eos: str = EOS,
        fingerprint: str | None = None,
        spare: Callable[[str], list[int]] | None = None,
    ) -> None:
        self.ranks, self.pattern, self._spare = ranks, pattern, spare
        self.controls = controls or {BOS: len(ranks), EOS: len(ranks) + 1}
        self.bos_id, self.eos_id = self.controls[bos], self.controls[eos]
        self.vocab_size = max(*ranks.values(), *self.controls.values()) + 1
        self._bytes = [b""] * self.vocab_size
        for token, rank in ranks.items():
            self._bytes[rank] = token
        if fingerprint is None:
            pieces = [token.hex() for token in self._bytes[: len(ranks)]]
            fingerprint = content_hash([pattern, bos, eos, pieces])
        self.fingerprint = fingerprint

    @functools.cached_property
    def _tiktoken(self) -> Any:
        """Tiktoken's encoder, or None where it is not installed."""
        try:
            import tiktoken
        except ImportError:
            if self.pattern != SPLIT_PATTERN:
                raise DataError(
                    "this tokenizer needs tiktoken, which is not installed",
                    "ladderlm can split text by itself with Llama 3's pattern only",
                    "run `pip install tiktoken`",
                ) from None
            return None
        return tiktoken.Encoding(
            "ladderlm",
            pat_str=self.pattern,
            mergeable_ranks=dict(self.ranks),
            special_tokens=dict(self.controls),
        )

    @functools.cached_property
    def _batches(self) -> BatchEncoder:
        classes = set(re.findall(r"\\[pP]\{(.*?)\}", self.pattern))
        spell = functools.partial(tokenizer_json, self.ranks, self.pattern, {}, indent=None)
        return BatchEncoder(self._encode_text, spell, plain_classes=classes <= {"L", "N"})

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text; see `Tokenizer.encode`."""
        check_encodable(text)
        return [self.bos_id] * bos + self._encode_text(text) + [self.eos_id] * eos

    def _encode_text(self, text: str) -> list[int]:
        """Return the ids of valid Unicode, from the encoder that fastokens is compared with."""
        coder = self._tiktoken
        if coder is None:
            return encode_reference(text, self.ranks)
        if self.pattern != SPLIT_PATTERN:
            known = self._spare is None or not has_long_spaces(text)
            return list(coder.encode_ordinary(text)) if known else self._spare(text)  # type: ignore[misc]
        ids: list[int] = []
        for part, whole in cut_long_spaces(text):
            ids += coder._encode_single_piece(part) if whole else coder.encode_ordinary(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text, without BOS and EOS, from the fastest proven library.

        Thread-safe; most of the work is done without Python's lock.

        Raises:
            DataError: a lone surrogate, or different ids from fastokens (see `fast.py`).
        """
        for text in texts:
            check_encodable(text)
        return self._batches.encode(texts)

    def decode_bytes(self, ids: Sequence[int], *, continued: bool = False) -> bytes:
        """Return the exact bytes of ids. A token's bytes never depend on `continued`."""
        del continued
        check_ids(ids, self.vocab_size)
        return b"".join(self._bytes[token] for token in ids)
