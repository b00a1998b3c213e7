"""Our own byte-level BPE as a file: `tokenizer.json` in Hugging Face's format.

Owns the byte alphabet, the writing and the strict reading of the file.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from ladderlm.errors import DataError
from ladderlm.files import read_json
from ladderlm.tokenizer.base import BOS, EOS
from ladderlm.tokenizer.split import SPLIT_PATTERN

__all__ = ["byte_alphabet", "read_ranks", "tokenizer_json"]

_FIX = "train one with `ladderlm tokenizer train SOURCE... --vocab-size N --out DIR`"


@functools.cache
def byte_alphabet() -> dict[int, str]:
    """Map each byte to the printable character that represents it in `tokenizer.json`.

    Source: Radford et al. 2019 (GPT-2), the byte-level alphabet that Hugging Face also uses.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = sorted(set(range(256)).difference(printable))
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read the bytes and ids of the tokens in a file that `ladderlm tokenizer train` wrote.

    Raises:
        DataError: the file is damaged, or is not a tokenizer of ours.
    """
    value = read_json(path)
    try:
        model, added = value["model"], {t["content"]: t["id"] for t in value["added_tokens"]}
        vocab: dict[str, int] = model["vocab"]
        pattern = value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path} is not a byte-level BPE of ours", f"no {error}", _FIX) from error
    to_byte = {char: byte for byte, char in byte_alphabet().items()}
    try:
        words = {w: i for w, i in vocab.items() if w not in (BOS, EOS)}
        ranks = {bytes(to_byte[char] for char in word): rank for word, rank in words.items()}
    except (KeyError, AttributeError, TypeError) as error:
        what = f"{path} has a token outside the byte alphabet: {error}"
        raise DataError(what, fix=_FIX) from error
    complete = all(type(rank) is int for rank in ranks.values())  # True and 1.0 equal 1
    complete = complete and sorted(ranks.values()) == list(range(len(ranks)))
    has_bytes = all(bytes([b]) in ranks for b in range(256))
    controls = added == {BOS: len(ranks), EOS: len(ranks) + 1}
    if pattern != SPLIT_PATTERN or not (complete and has_bytes and controls):
        raise DataError(
            f"{path} is not a byte-level BPE of ours: it must have Llama 3's split pattern, bytes "
            f"and merges as ids 0 .. n-1, and {BOS} and {EOS} as the last two ids",
            fix=_FIX,
        )
    return ranks


def tokenizer_json(
    ranks: Mapping[bytes, int],
    pattern: str = SPLIT_PATTERN,
    controls: Mapping[str, int] | None = None,
    indent: int | None = 1,
) -> str:
    """Return a vocabulary in Hugging Face's format.

    Every pair of known halves of a token becomes a merge, in the order of the tokens' ranks. This
    makes Hugging Face's encoder follow tiktoken's rule: merge the pair of the lowest rank.

    Args:
        controls: names and ids of control tokens. Default: BOS and EOS; {} leaves them out.
        indent: None writes a single line, which is several times faster.
    """
    alphabet = byte_alphabet()
    word = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    merges = []
    for token, _ in in_order:
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(left, right) for left, right in halves if left in ranks and right in ranks]
        known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [[word[left], word[right]] for left, right in known]
    if controls is None:
        controls = {BOS: len(ranks), EOS: len(ranks) + 1}
    added = {"single_word": False, "lstrip": False, "rstrip": False}
    added |= {"normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
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
            "vocab": {word[token]: rank for token, rank in in_order} | dict(controls),
            "merges": merges,
        },
    }
    return json.dumps(value, ensure_ascii=False, indent=indent) + "\n"
