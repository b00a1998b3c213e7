"""Byte-level byte-pair encoding.

Owns the split pattern, the file format, and two encoders that give the same ids: tiktoken where
it is installed, and a slow one in plain Python, which is the reference in the tests and the
fall-back of the bare runner. Training is in `train.py`.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import read_json, sha256_file

__all__ = [
    "BOS",
    "EOS",
    "SPLIT_PATTERN",
    "BytePairTokenizer",
    "byte_alphabet",
    "cut_long_spaces",
    "encode_reference",
    "split_reference",
    "tokenizer_json",
]

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
# Llama 3's published pattern, verbatim, so that fast encoders, transformers and llama.cpp know it.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# White_Space without \r and \n. A run of a million of them overflows tiktoken's regex machine.
_SPACES = "\t\x0b\x0c \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_LONG = 100_000  # characters


@functools.cache
def byte_alphabet() -> dict[int, str]:
    """Map each byte to the printable character that stands for it in `tokenizer.json`.

    Source: Radford et al. 2019 (GPT-2), the byte-level alphabet that Hugging Face also uses.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    return table | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def _letter(char: str) -> bool:
    return unicodedata.category(char)[0] == "L"


def _number(char: str) -> bool:
    return unicodedata.category(char)[0] == "N"


def _space(char: str) -> bool:
    return char.isspace() and char not in "\x1c\x1d\x1e\x1f"  # Unicode White_Space, as in \s


def _run(text: str, at: int, accepts: Any, limit: int | None = None) -> int:
    end = at
    while end < len(text) and accepts(text[end]) and (limit is None or end - at < limit):
        end += 1
    return end


def _split_end(text: str, at: int) -> int:
    """Give the end of the piece that begins at `at`: the first alternative that matches."""
    for suffix in _CONTRACTIONS:
        if text[at : at + len(suffix)].lower() == suffix:
            return at + len(suffix)
        if suffix == "'s" and text[at : at + 2] == "'\u017f":  # long s folds to s
            return at + 2
    char = text[at]
    begin = at if char in "\r\n" or _letter(char) or _number(char) else at + 1
    if char not in "\r\n" and (end := _run(text, begin, _letter)) > begin:
        return end
    if _number(char):
        return _run(text, at, _number, 3)
    begin = at + 1 if char == " " else at
    end = _run(text, begin, lambda c: not (_space(c) or _letter(c) or _number(c)))
    if end > begin:
        return _run(text, end, lambda c: c in "\r\n")
    end = _run(text, at, _space)
    last_newline = max(text.rfind("\n", at, end), text.rfind("\r", at, end))
    if last_newline >= 0:
        return last_newline + 1
    return end if end == len(text) or end == at + 1 else end - 1


def split_reference(text: str) -> Iterator[str]:
    """Split a text as `SPLIT_PATTERN` does, by hand: `re` has no Unicode classes."""
    at = 0
    while at < len(text):
        end = _split_end(text, at)
        yield text[at:end]
        at = end


def cut_long_spaces(text: str, limit: int = _LONG) -> list[tuple[str, bool]]:
    """Cut long runs of spaces out of a text, where `SPLIT_PATTERN` cuts anyway.

    Let a maximal run of white space without line ends be followed by something visible or by the
    end of the text. No piece reaches into it from the left, because the only white space that may
    follow something visible within a piece is line ends, and a piece with line ends stops after
    the last of them. At its begin only `\\s+(?!\\S)` matches (a run of two or more), which takes
    all of it, or all but the last character if something visible follows. Nothing looks behind.

    Args:
        limit: shorter runs stay where they are; at least 2.

    Returns:
        Parts whose ids, joined, are the ids of the text; True marks a part that is one piece.
    """
    step = limit // 2
    places = range(0, len(text) - step + 1, step)  # a long run covers one of these windows
    if not any(text[at].isspace() and text[at : at + step].isspace() for at in places):
        return [(text, False)]
    parts, done = [], 0
    for run in re.finditer(f"[{_SPACES}]{{{limit},}}", text):
        end = run.end()
        if text[end : end + 1] in ("\r", "\n"):
            continue  # these spaces belong to the line ends
        end -= end < len(text)
        parts += [(text[done : run.start()], False), (text[run.start() : end], True)]
        done = end
    return [(part, whole) for part, whole in [*parts, (text[done:], False)] if part]


def encode_reference(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Encode in the plainest way: in each piece, merge the pair of lowest rank until none is left.

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


class BytePairTokenizer:
    """A byte-level BPE with BOS and EOS as its last two ids.

    Args:
        ranks: bytes of each token -> its id, which is also the order of merging; 0 .. n - 1.
    """

    pad_id = -1

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self.ranks = ranks
        self.vocab_size = len(ranks) + 2
        self.bos_id, self.eos_id = len(ranks), len(ranks) + 1
        self._bytes = [b""] * self.vocab_size
        for token, rank in ranks.items():
            self._bytes[rank] = token
        pieces = [token.hex() for token in self._bytes[:-2]]
        self.fingerprint = content_hash([SPLIT_PATTERN, BOS, EOS, pieces])

    @property
    def n_words(self) -> int:
        """Meta's name for the size of the vocabulary."""
        return self.vocab_size

    @functools.cached_property
    def _tiktoken(self) -> Any:
        """Tiktoken's encoder, or None where it is not installed."""
        try:
            import tiktoken
        except ImportError:
            return None
        return tiktoken.Encoding(
            "ladderlm",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=self.ranks,
            special_tokens={BOS: self.bos_id, EOS: self.eos_id},
        )

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Give the ids of a text. Strings that look like control tokens are plain text.

        Raises:
            DataError: the text holds a lone surrogate, which no UTF-8 can carry.
        """
        _check_encodable(text)
        ids = self._encode_tiktoken(text) if self._tiktoken else encode_reference(text, self.ranks)
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def _encode_tiktoken(self, text: str) -> list[int]:
        ids: list[int] = []
        for part, whole in cut_long_spaces(text):
            coder = self._tiktoken
            ids += coder._encode_single_piece(part) if whole else coder.encode_ordinary(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Give the ids of each text alone."""
        return [np.array(self.encode(text), dtype=np.int64) for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Give the exact bytes of ids; BOS and EOS give none.

        Raises:
            DataError: an id outside the vocabulary.
        """
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise DataError(
                    f"token id {token} is outside a vocabulary of {self.vocab_size}",
                    "the ids come from another tokenizer",
                )
        return b"".join(self._bytes[token] for token in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    @classmethod
    def load(cls, folder: Path) -> "BytePairTokenizer":
        """Open a folder with `tokenizer.json` (Hugging Face's format) and `ladderlm.json`.

        Raises:
            DataError: files missing or damaged, or not a tokenizer of ours.
        """
        path = folder / "tokenizer.json"
        fix = "make it with `ladderlm tokenizer train SOURCE... --vocab-size N --out DIR`"
        if not path.is_file():
            raise DataError(
                f"{folder} holds no tokenizer.json", "it is not a tokenizer folder", fix
            )
        record = read_json(folder / "ladderlm.json")
        if not isinstance(record, dict) or not {"fingerprint", "sha256"} <= record.keys():
            raise DataError(
                f"{folder / 'ladderlm.json'} records no fingerprint and sha256 of tokenizer.json",
                "nothing would show a changed byte",
                "restore the folder, or train the tokenizer again",
            )
        tokenizer = cls(_read_ranks(read_json(path), path, fix))
        if record["sha256"] != sha256_file(path):
            raise DataError(
                f"{path} does not match the sha256 in {folder / 'ladderlm.json'}",
                "a byte of it was changed",
                "restore the folder, or train the tokenizer again",
            )
        if record["fingerprint"] != tokenizer.fingerprint:
            raise DataError(
                f"{path} does not match the fingerprint in {folder / 'ladderlm.json'}",
                "ids would not mean what they meant when the data was prepared",
                "restore the folder, or train the tokenizer again",
            )
        return tokenizer


def _read_ranks(value: Any, path: Path, fix: str) -> dict[bytes, int]:
    """Turn the vocabulary of a `tokenizer.json` of ours back into bytes and ranks."""
    try:
        model, added = value["model"], {t["content"]: t["id"] for t in value["added_tokens"]}
        vocab: dict[str, int] = model["vocab"]
        pattern = value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path} is not a byte-level BPE of ours", f"no {error}", fix) from error
    to_byte = {char: byte for byte, char in byte_alphabet().items()}
    try:
        words = {w: i for w, i in vocab.items() if w not in (BOS, EOS)}
        ranks = {bytes(to_byte[char] for char in word): rank for word, rank in words.items()}
    except (KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} has a token outside the byte alphabet: {error}", "", fix
        ) from error
    complete = all(type(rank) is int for rank in ranks.values())  # True and 1.0 equal 1
    complete = complete and sorted(ranks.values()) == list(range(len(ranks)))
    bytes_first = all(bytes([b]) in ranks for b in range(256))
    controls = added == {BOS: len(ranks), EOS: len(ranks) + 1}
    if pattern != SPLIT_PATTERN or not (complete and bytes_first and controls):
        raise DataError(
            f"{path} is not a byte-level BPE of ours",
            "the split pattern is Llama 3's, ids 0 .. n-1 are bytes and merges in order, and "
            f"{BOS} and {EOS} are the last two ids",
            fix,
        )
    return ranks


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text holds a lone surrogate {text[error.start]!r} at character {error.start}",
            "it is not valid Unicode and has no UTF-8 bytes to count",
            "remove or replace it; with `prepare --skip-bad` the document is left out and counted",
        ) from error


def tokenizer_json(ranks: dict[bytes, int]) -> str:
    """Spell a vocabulary in Hugging Face's format.

    Every pair of known halves of a token becomes a merge, in the order of the tokens' ranks, which
    makes Hugging Face's encoder follow tiktoken's rule (merge whatever gives the lowest rank).
    """
    alphabet = byte_alphabet()
    word = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(left, right) for left, right in halves if left in ranks and right in ranks]
        known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [[word[left], word[right]] for left, right in known]
    controls = {BOS: len(ranks), EOS: len(ranks) + 1}
    added = {"single_word": False, "lstrip": False, "rstrip": False}
    added |= {"normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **added} for name, i in controls.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split | {"invert": False}, byte_level | {"use_regex": False}],
        },
        "post_processor": None,
        "decoder": byte_level | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word[t]: r for t, r in sorted(ranks.items(), key=lambda i: i[1])} | controls,
            "merges": merges,
        },
    }
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
