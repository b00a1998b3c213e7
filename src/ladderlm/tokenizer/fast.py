"""Encode batches with the fastest library whose ids are proven equal.

Owns the choice among fastokens, gigatoken (both in the extra `fast`) and tiktoken, and the checks
that make it safe: before a library is used its ids are compared on hard texts and on texts of the
corpus, and from then on on one text of every batch. Libraries know different versions of Unicode,
so texts with characters that are a letter to one and none to the other go to tiktoken.
"""

import functools
import importlib.metadata
import itertools
import logging
import os
import threading
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import ConfigError, DataError
from ladderlm.tokenizer.base import NASTY_TEXTS

__all__ = ["ENCODERS", "BatchEncoder", "disputed_prefixes", "measure_disputed"]

_log = logging.getLogger(__name__)

SMALL = 50_000  # characters; below it a batch is not worth making a fast encoder for
SAMPLE = 200_000  # characters of the corpus compared before a library is used
SPOT = 4096  # characters; the longest text compared while it is in use
Encode = Callable[[Sequence[str], Sequence[bytes]], list[NDArray[np.uint32]]]  # texts, their UTF-8

# What `measure_disputed` gives for (library, its version, tiktoken's version): it takes a second.
_DISPUTED = {
    ("gigatoken", "0.10.0", "0.14.0"): bytes.fromhex(
        "e0a2 e0b1 e0b3 ea9f f090 f091 f096 f098 f09e f0ab f0ac f0b2 f0b3"
    ),
    ("fastokens", "0.3.5", "0.14.0"): b"",
}


def _rows(flat: Any, offsets: Any) -> list[NDArray[np.uint32]]:
    ids, ends = np.asarray(flat, np.uint32), np.asarray(offsets).tolist()
    return [ids[begin:end] for begin, end in itertools.pairwise(ends)]


def _gigatoken(spelling: str) -> Encode:
    import gigatoken

    coder = gigatoken.Tokenizer.from_json(spelling)

    def encode(_: Sequence[str], raws: Sequence[bytes]) -> list[NDArray[np.uint32]]:
        # On the calling thread: callers that want two cores call from two threads.
        layout = coder.encode_batch(list(raws), parallel=False).layout
        return _rows(np.asarray(layout.content.data), np.asarray(layout.offsets.data))

    return encode


def _fastokens(spelling: str) -> Encode:
    import fastokens

    coder = fastokens.Tokenizer.from_json_str(spelling)

    def encode(texts: Sequence[str], _: Sequence[bytes]) -> list[NDArray[np.uint32]]:
        ids, offsets = coder.encode_batch_flat(list(texts))
        return _rows(np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64))

    return encode


# The fastest first: on one core of a Zen 2 they encode 225 and 150 MB/s of text not seen before.
ENCODERS: dict[str, Callable[[str], Encode]] = {"fastokens": _fastokens, "gigatoken": _gigatoken}


@functools.cache
def disputed_prefixes(name: str) -> tuple[bytes, ...]:
    """Give the first two UTF-8 bytes of characters that a library puts into another class."""
    version = importlib.metadata.version
    known = _DISPUTED.get((name, version(name), version("tiktoken")))
    if known is None:
        return measure_disputed(name)
    return tuple(known[i : i + 2] for i in range(0, len(known), 2))


def measure_disputed(name: str) -> tuple[bytes, ...]:
    """Find these prefixes by trying.

    All characters of planes 0 to 3 that are newer than Unicode 3.2 are tried behind a letter, a
    digit and a mark, with a vocabulary that shows in its ids where a text was cut.
    """
    from ladderlm.tokenizer.bpe import BytePairTokenizer
    from ladderlm.tokenizer.bpe_file import tokenizer_json

    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [first + bytes([byte]) for first in (b"a", b"1", b"!") for byte in range(0xC2, 0xF5)]
    probe = BytePairTokenizer({token: rank for rank, token in enumerate(tokens)})
    fast = ENCODERS[name](tokenizer_json(probe.ranks, controls={}))
    tried: dict[bytes, list[str]] = {}
    for code in (*range(0x80, 0xD800), *range(0xE000, 0x40000)):
        if unicodedata.ucd_3_2_0.category(chr(code)) == "Cn":
            tried.setdefault(chr(code).encode()[:2], []).append(chr(code))
    texts = ["".join(f"a{c}\n1{c}\n!{c}\n" for c in chars) for chars in tried.values()]
    rows = zip(tried, texts, fast(texts, _utf8(texts)), strict=True)
    return tuple(prefix for prefix, text, row in rows if row.tolist() != probe.encode(text))


def _utf8(texts: Sequence[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def _finder(prefixes: Sequence[bytes]) -> Callable[[bytes], bool]:
    """Give a function that says whether one of the prefixes stands in a text's UTF-8."""
    firsts = sorted({prefix[:1] for prefix in prefixes})

    def find(raw: bytes) -> bool:
        # One byte is found many times faster than two, and most texts lack all of these.
        return any(first in raw for first in firsts) and any(p in raw for p in prefixes)

    return find


class BatchEncoder:
    """One vocabulary's encoder of batches; may be called from several threads.

    The environment variable LADDERLM_ENCODER names the only library that may be used
    (gigatoken, fastokens or tiktoken).

    Args:
        plain: gives the ids of one text, by the encoder that the others are measured against.
        spell: gives the vocabulary as a `tokenizer.json` without control tokens.
        plain_classes: the split pattern asks for letters, numbers and white space only; other
            classes are not compared between libraries, so tiktoken is used.
    """

    def __init__(
        self,
        plain: Callable[[str], list[int]],
        spell: Callable[[], str],
        *,
        plain_classes: bool = True,
    ) -> None:
        self._plain, self._spell, self._plain_classes = plain, spell, plain_classes
        self._is_disputed: Callable[[bytes], bool] = lambda raw: False
        self._lock = threading.Lock()
        self._fast: Encode | None = None
        self.library: str | None = None  # None: not chosen yet
        self._n_batches = 0

    def encode(self, texts: Sequence[str], raws: Sequence[bytes]) -> list[NDArray[np.uint32]]:
        """Give the ids of each text; raws are their UTF-8.

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
            rows = fast(texts, raws)
            for i, raw in enumerate(raws):
                if self._is_disputed(raw):
                    rows[i] = np.array(self._plain(texts[i]), np.uint32)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            self._fast = None
            _log.warning("encoding with tiktoken from here on: %s failed: %s", self.library, error)
            return self._encode_plainly(texts)
        self._spot_check(texts, rows)
        return rows

    def _encode_plainly(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [np.array(self._plain(text), np.uint32) for text in texts]

    def _choose(self, texts: Sequence[str]) -> None:
        """Take the first library that is installed and gives the ids of `plain` on a sample."""
        sample, n_chars = list(NASTY_TEXTS), 0
        for text in texts[:: max(len(texts) // 64, 1)]:
            sample.append(text[: SAMPLE // 8])
            n_chars += len(sample[-1])
            if n_chars >= SAMPLE:
                break
        expected = self._encode_plainly(sample)
        wanted, reasons = _wanted() if self._plain_classes else ["tiktoken"], []
        spelling = self._spell() if "tiktoken" not in wanted else ""
        for name in [name for name in wanted if name in ENCODERS]:
            problem = None
            try:
                fast = ENCODERS[name](spelling)
                disputed = _finder(disputed_prefixes(name))
                raws = _utf8(sample)
                rows = fast(sample, raws)
                agreed = [
                    disputed(raw) or np.array_equal(row, ids)
                    for raw, row, ids in zip(raws, rows, expected, strict=True)
                ]
                if not all(agreed):
                    problem = "gives other ids"
            except ImportError:
                problem = "is not installed"
            except (KeyboardInterrupt, SystemExit, MemoryError):
                raise
            except BaseException as error:  # a panic of Rust is no Exception
                problem = f"failed: {str(error)[:200]}"
            if problem is None:
                self._is_disputed, self._fast, self.library = disputed, fast, name
                version = importlib.metadata.version(name)
                _log.info("encoding with %s %s: ids proven on %d texts", name, version, len(sample))
                return
            reasons.append(f"{name} {problem}")
        harmless = all(reason.endswith("is not installed") for reason in reasons)
        level = logging.INFO if harmless else logging.WARNING
        why = "LADDERLM_ENCODER says so" if self._plain_classes else "the split pattern is foreign"
        why = "; ".join(reasons) or why
        _log.log(level, "encoding with tiktoken: %s", why)
        self.library = "tiktoken"

    def _spot_check(self, texts: Sequence[str], rows: list[NDArray[np.uint32]]) -> None:
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
