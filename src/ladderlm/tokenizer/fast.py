"""Encode batches with the fastest library whose ids are proven equal.

Owns the choice among gigatoken, fastokens (both in the extra `fast`) and tiktoken, and the checks
that make it safe: before a library is used its ids are compared on hard texts and on texts of the
corpus, and from then on on one text of every batch.
"""

import importlib.metadata
import itertools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import ConfigError, DataError
from ladderlm.tokenizer.base import NASTY_TEXTS

__all__ = ["ENCODERS", "BatchEncoder"]

_log = logging.getLogger(__name__)

SMALL = 50_000  # characters; below it a batch is not worth making a fast encoder for
SAMPLE = 200_000  # characters of the corpus compared before a library is used
SPOT = 4096  # characters; the longest text compared while it is in use
Encode = Callable[[Sequence[str]], list[NDArray[np.int64]]]


def _rows(flat: Any, offsets: Any) -> list[NDArray[np.int64]]:
    ids, ends = flat.astype(np.int64), [int(end) for end in offsets]
    return [ids[begin:end] for begin, end in itertools.pairwise(ends)]


def _gigatoken(spelling: str) -> Encode:
    import gigatoken

    coder = gigatoken.Tokenizer.from_json(spelling)

    def encode(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        # On the calling thread: callers that want two cores call from two threads.
        layout = coder.encode_batch(list(texts), parallel=False).layout
        return _rows(np.asarray(layout.content.data), np.asarray(layout.offsets.data))

    return encode


def _fastokens(spelling: str) -> Encode:
    import fastokens

    coder = fastokens.Tokenizer.from_json_str(spelling)

    def encode(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        ids, offsets = coder.encode_batch_flat(list(texts))
        return _rows(np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64))

    return encode


ENCODERS: dict[str, Callable[[str], Encode]] = {"gigatoken": _gigatoken, "fastokens": _fastokens}


class BatchEncoder:
    """One vocabulary's encoder of batches; may be called from several threads.

    The environment variable LADDERLM_ENCODER names the only library that may be used
    (gigatoken, fastokens or tiktoken).

    Args:
        plain: gives the ids of one text, by the encoder that the others are measured against.
        spell: gives the vocabulary as a `tokenizer.json` without control tokens.
    """

    def __init__(self, plain: Callable[[str], list[int]], spell: Callable[[], str]) -> None:
        self._plain, self._spell = plain, spell
        self._lock = threading.Lock()
        self._fast: Encode | None = None
        self.library: str | None = None  # None: not chosen yet
        self._n_batches = 0

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Give the ids of each text.

        Raises:
            DataError: the library in use gave other ids than before it was trusted.
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
            _log.warning("encoding with tiktoken from here on: %s failed: %s", self.library, error)
            return self._encode_plainly(texts)
        self._spot_check(texts, rows)
        return rows

    def _encode_plainly(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        return [np.array(self._plain(text), dtype=np.int64) for text in texts]

    def _choose(self, texts: Sequence[str]) -> None:
        """Take the first library that is installed and gives the ids of `plain` on a sample."""
        sample, n_chars = list(NASTY_TEXTS), 0
        for text in texts[:: max(len(texts) // 64, 1)]:
            sample.append(text[: SAMPLE // 8])
            n_chars += len(sample[-1])
            if n_chars >= SAMPLE:
                break
        expected = self._encode_plainly(sample)
        wanted, reasons = _wanted(), []
        spelling = self._spell() if "tiktoken" not in wanted else ""
        for name in [name for name in wanted if name in ENCODERS]:
            problem = None
            try:
                fast = ENCODERS[name](spelling)
                rows = fast(sample)
                if not all(map(np.array_equal, rows, expected)) or len(rows) != len(expected):
                    problem = "gives other ids"
            except ImportError:
                problem = "is not installed"
            except (KeyboardInterrupt, SystemExit, MemoryError):
                raise
            except BaseException as error:  # a panic of Rust is no Exception
                problem = f"failed: {str(error)[:200]}"
            if problem is None:
                self._fast, self.library = fast, name
                version = importlib.metadata.version(name)
                _log.info("encoding with %s %s: ids proven on %d texts", name, version, len(sample))
                return
            reasons.append(f"{name} {problem}")
        harmless = all(reason.endswith("is not installed") for reason in reasons)
        level = logging.INFO if harmless else logging.WARNING
        why = "; ".join(reasons) or "LADDERLM_ENCODER says so"
        _log.log(level, "encoding with tiktoken: %s", why)
        self.library = "tiktoken"

    def _spot_check(self, texts: Sequence[str], rows: list[NDArray[np.int64]]) -> None:
        self._n_batches += 1
        short = [i for i, text in enumerate(texts) if len(text) <= SPOT]
        if not short:
            return
        i = short[self._n_batches * 7919 % len(short)]
        if len(rows) != len(texts) or rows[i].tolist() != self._plain(texts[i]):
            raise DataError(
                f"{self.library} gave other ids than tiktoken on {texts[i][:60]!r}",
                "what it encoded before cannot be trusted either",
                "delete the output, set LADDERLM_ENCODER=tiktoken and run again",
            )


def _wanted() -> list[str]:
    """List the libraries that may be used, the fastest first."""
    named = os.environ.get("LADDERLM_ENCODER")
    if not named:
        return list(ENCODERS)
    if named not in ENCODERS and named != "tiktoken":
        raise ConfigError(
            f"LADDERLM_ENCODER={named}",
            "no such encoder is known",
            f"name one of {', '.join(ENCODERS)}, tiktoken, or unset it",
        )
    return [named]
