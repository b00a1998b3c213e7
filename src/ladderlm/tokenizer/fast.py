"""Encode batches with fastokens, as long as its ids equal those of tiktoken.

Owns the choice between fastokens (the extra `fast`) and tiktoken, and the checks that make it safe.
Before fastokens is used, its ids are compared on hard texts and on texts of the corpus. While it is
in use, one text of every batch is compared. The libraries know different versions of Unicode, so
fastokens is not used if it classifies any character differently from tiktoken.
"""

import functools
import importlib.metadata
import itertools
import logging
import os
import threading
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import ConfigError, DataError
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.bpe_file import tokenizer_json
from ladderlm.tokenizer.split import SPLIT_PATTERN

__all__ = ["BatchEncoder", "disputed_characters", "load_fastokens"]

_log = logging.getLogger(__name__)

SMALL = 50_000  # characters; a fast encoder is not built for a smaller batch
SAMPLE = 200_000  # characters of the corpus compared before fastokens is used
SPOT = 4096  # characters; the longest text compared while it is in use
LIBRARIES = ("fastokens", "tiktoken")
Encode = Callable[[Sequence[str]], list[NDArray[np.uint32]]]

# Versions of fastokens and tiktoken without disputed characters; the comparison takes a second.
_AGREE = {("0.3.5", "0.14.0")}


def load_fastokens(spelling: str) -> Encode:
    """Return fastokens' encoder of a vocabulary, given as the text of a `tokenizer.json`."""
    import fastokens

    coder = fastokens.Tokenizer.from_json_str(spelling)

    def encode(texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        ids, offsets = coder.encode_batch_flat(list(texts))
        flat = np.frombuffer(ids, np.uint32)
        ends = np.frombuffer(offsets, np.uint64).tolist()
        return [flat[begin:end] for begin, end in itertools.pairwise(ends)]

    return encode


@functools.cache
def _any_disputed() -> bool:
    versions = tuple(map(importlib.metadata.version, LIBRARIES))
    return versions not in _AGREE and bool(disputed_characters(load_fastokens))


def disputed_characters(load: Callable[[str], Encode]) -> list[str]:
    """Return the characters that a library classifies differently from tiktoken.

    All characters of planes 0 to 3 that are newer than Unicode 3.2 are tried after a letter, a
    digit and a punctuation mark. The ids of the vocabulary show where a text was split.
    """
    import tiktoken

    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [first + bytes([byte]) for first in (b"a", b"1", b"!") for byte in range(0xC2, 0xF5)]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    trusted = tiktoken.Encoding(
        "disputed", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    encode = load(tokenizer_json(ranks, controls={}))
    codes = (*range(0x80, 0xD800), *range(0xE000, 0x40000))
    newer = [chr(c) for c in codes if unicodedata.ucd_3_2_0.category(chr(c)) == "Cn"]
    found = []
    for chars in (newer[i : i + 256] for i in range(0, len(newer), 256)):
        texts = [f"a{c}\n1{c}\n!{c}\n" for c in chars]
        whole = "".join(texts)
        if encode([whole])[0].tolist() != trusted.encode_ordinary(whole):
            rows = zip(chars, texts, encode(texts), strict=True)
            found += [c for c, text, row in rows if row.tolist() != trusted.encode_ordinary(text)]
    return found


class BatchEncoder:
    """A thread-safe encoder of batches for one vocabulary.

    The environment variable LADDERLM_ENCODER (fastokens or tiktoken) prescribes the library.

    Args:
        plain: returns the ids of one text, from the encoder that fastokens is compared with.
        spell: returns the vocabulary as a `tokenizer.json` without control tokens.
        plain_classes: the split pattern has only the classes letter, number and white space.
            Other classes are not compared between libraries, so tiktoken is used.
    """

    def __init__(
        self,
        plain: Callable[[str], list[int]],
        spell: Callable[[], str],
        *,
        plain_classes: bool = True,
    ) -> None:
        self._plain, self._spell, self._plain_classes = plain, spell, plain_classes
        self._lock = threading.Lock()
        self._fast: Encode | None = None
        self.library: str | None = None  # None: not chosen yet
        self._n_batches = 0

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text.

        Raises:
            ConfigError: LADDERLM_ENCODER names a library that is unknown or not installed.
            DataError: fastokens returned different ids from tiktoken while in use.
        """
        if self.library is None and sum(map(len, texts)) >= SMALL:
            with self._lock:
                if self.library is None:
                    self._choose(texts)
        fast = self._fast
        if fast is None:
            return self._encode_plainly(texts)
        try:
            rows = fast(texts)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            self._fast = None
            _log.warning("encoding with tiktoken from here on: fastokens failed: %s", error)
            return self._encode_plainly(texts)
        self._spot_check(texts, rows)
        return rows

    def _encode_plainly(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [np.array(self._plain(text), np.uint32) for text in texts]

    def _choose(self, texts: Sequence[str]) -> None:
        """Use fastokens if it is installed and returns the ids of `plain` on a sample."""
        sample, n_chars = list(NASTY_TEXTS), 0
        for text in texts[:: max(len(texts) // 64, 1)]:
            sample.append(text[: SAMPLE // 8])
            n_chars += len(sample[-1])
            if n_chars >= SAMPLE:
                break
        level, why = self._try_fastokens(sample)
        if self._fast is None:
            _log.log(level, "encoding with tiktoken: %s", why)
        else:
            version = importlib.metadata.version("fastokens")
            _log.info("encoding with fastokens %s: ids proven on %d texts", version, len(sample))
        self.library = "tiktoken" if self._fast is None else "fastokens"

    def _try_fastokens(self, sample: Sequence[str]) -> tuple[int, str]:
        """Keep fastokens if it agrees, else return the log level and the reason."""
        wanted = os.environ.get("LADDERLM_ENCODER")
        if wanted and wanted not in LIBRARIES:
            raise ConfigError(
                f"LADDERLM_ENCODER must be one of {', '.join(LIBRARIES)}, got {wanted}",
                fix="set LADDERLM_ENCODER to one of them, or unset it",
            )
        if wanted == "tiktoken":
            return logging.INFO, "LADDERLM_ENCODER names it"
        if not self._plain_classes:
            return logging.INFO, "the split pattern has other character classes"
        try:
            fast = load_fastokens(self._spell())
            if _any_disputed():
                return logging.WARNING, "fastokens knows another version of Unicode"
            pairs = zip(fast(sample), self._encode_plainly(sample), strict=True)
            if not all(np.array_equal(row, ids) for row, ids in pairs):
                return logging.WARNING, "fastokens returns different ids"
        except ImportError:
            if wanted:
                raise ConfigError(
                    "LADDERLM_ENCODER names fastokens, which is not installed",
                    fix="run `pip install 'ladderlm[fast]'`, or unset LADDERLM_ENCODER",
                ) from None
            return logging.INFO, "fastokens is not installed"
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            return logging.WARNING, f"fastokens failed: {str(error)[:200]}"
        self._fast = fast
        return logging.INFO, ""

    def _spot_check(self, texts: Sequence[str], rows: list[NDArray[np.uint32]]) -> None:
        self._n_batches += 1
        short = [i for i, text in enumerate(texts) if len(text) <= SPOT]
        if not short:
            return
        i = short[self._n_batches * 7919 % len(short)]
        if len(rows) != len(texts) or rows[i].tolist() != self._plain(texts[i]):
            raise DataError(
                f"fastokens returned different ids from tiktoken on {texts[i][:60]!r}",
                "what it encoded before cannot be trusted either",
                "delete the output, set LADDERLM_ENCODER=tiktoken and run again",
            )
