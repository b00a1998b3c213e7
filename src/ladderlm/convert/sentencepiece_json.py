"""SentencePiece models of LLaMA 1 and 2 as a `tokenizer.json`.

Owns the merges that represent a model's scores, and the proof that the ids are the same. U+2581 is
the one exception: Hugging Face's library reads it as a space, ladderlm as the character itself.
"""

import json
import random
from pathlib import Path
from typing import Any

from ladderlm.convert.gguf_vocabulary import NORMAL_PIECE, read_pieces
from ladderlm.errors import DataError
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.bpe_file import tokenizer_json
from ladderlm.tokenizer.hugging_face import open_library
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer

__all__ = ["sentencepiece_json"]

_SPACE = "\u2581"
_N_ROWS, _N_STRINGS = 500, 2000


def sentencepiece_json(path: Path) -> tuple[dict[str, Any], str, str]:
    """Convert a SentencePiece BPE to the value of a `tokenizer.json` with the same ids.

    SentencePiece merges the neighbours whose joint piece has the highest score, leftmost first.
    Hugging Face's BPE merges by the rank of the pair. So every split of a piece into two pieces
    becomes a merge, in the order of the scores.

    Returns:
        The value, without a post-processor, and the names of BOS and EOS.

    Raises:
        DataError: some text gets other ids.
    """
    ours = SentencePieceTokenizer(path.read_bytes(), str(path))
    lists = read_pieces(path)
    pieces, kinds, scores = (lists[f"token_{name}"] for name in ("list", "types", "scores"))
    ids = {piece: i for i, piece in enumerate(pieces)}
    normal = {piece for piece, kind in zip(pieces, kinds, strict=True) if kind == NORMAL_PIECE}
    merges = [
        [piece[:at], piece[at:]]
        for piece in sorted(normal, key=lambda piece: (-scores[ids[piece]], ids[piece]))
        for at in range(1, len(piece))
        if piece[:at] in normal and piece[at:] in normal
    ]
    controls = {pieces[i]: i for i in sorted({lists["unk_token_id"], ours.bos_id, ours.eos_id})}
    normalizers: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    ]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if ours.prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": ours.prefix})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    value: dict[str, Any] = json.loads(tokenizer_json({}, controls=controls))
    value |= {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }
    value["model"] |= {
        "unk_token": pieces[lists["unk_token_id"]],
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": ids,
        "merges": merges,
    }
    _prove_equal_ids(ours, value, path, pieces)
    return value, pieces[ours.bos_id], pieces[ours.eos_id]


def _prove_equal_ids(
    ours: SentencePieceTokenizer, value: dict[str, Any], path: Path, pieces: list[str]
) -> None:
    """Compare ids and decoded texts on hard, likely and random strings."""
    library = open_library(value, path, ())
    for text in _trial_texts(pieces):
        theirs = list(library.encode(text, add_special_tokens=False).ids)
        if theirs != ours.encode(text) or library.decode(theirs) != text:
            raise DataError(
                f"{path} cannot be written as tokenizer.json: {text[:40]!r} would get other ids",
                fix="use its tokenizer.model, which is exported too",
            )


def _trial_texts(pieces: list[str]) -> list[str]:
    rng = random.Random(1)
    words = [piece.replace(_SPACE, " ") for piece in pieces]
    rows = ["".join(rng.choices(words, k=20)) for _ in range(_N_ROWS)]
    letters = [*"  \n\t aeE.1<>", "\u00e9", "e\u0301", "\u65e5", "\U0001f389", "\x00", "\ufeff"]

    def letter() -> str:
        char = rng.choice(letters) if rng.random() < 0.6 else chr(rng.randrange(1, 0x2FFFF))
        return "" if "\ud800" <= char <= "\udfff" else char

    strings = ["".join(letter() for _ in range(rng.randint(1, 24))) for _ in range(_N_STRINGS)]
    runs = [c * n for c in " a\n=" for n in range(1, 70)]
    return [text.replace(_SPACE, "") for text in [*NASTY_TEXTS, *words, *rows, *strings, *runs]]
