"""SentencePiece models of LLaMA 1 and 2 as a `tokenizer.json`.

Owns the merges that stand for a model's scores, and the proof that the ids are the same. One string
differs by nature, U+2581: Hugging Face's library takes it for a space, ours spells it.
"""

import random
from pathlib import Path
from typing import Any

from ladderlm.convert.gguf_vocabulary import NORMAL_PIECE, read_pieces
from ladderlm.errors import DataError
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.hugging_face import open_library
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer

__all__ = ["sentencepiece_json"]

_SPACE = "\u2581"
_N_ROWS, _N_STRINGS = 500, 2000


def sentencepiece_json(path: Path) -> tuple[dict[str, Any], str, str]:
    """Turn a SentencePiece BPE into the value of a `tokenizer.json` with the same ids.

    SentencePiece merges the neighbours whose joint piece has the highest score, the left ones
    first. Hugging Face's BPE merges by the rank of the pair, so every way to cut a piece into two
    pieces becomes a merge, in the order of the scores.

    Returns:
        The value, without a post-processor, and the names of BOS and EOS.

    Raises:
        DataError: it cannot be said as merges, or gives other ids for some text; names the text.
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
    controls = [lists["unk_token_id"], ours.bos_id, ours.eos_id]
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    ]
    begin: list[dict[str, Any]] = []
    if ours.prefix:
        steps.insert(0, {"type": "Prepend", "prepend": ours.prefix})
        begin = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    value: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": pieces[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i in sorted(controls)
        ],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *begin,
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[lists["unk_token_id"]],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": merges,
        },
    }
    _prove_equal_ids(ours, value, path, pieces)
    return value, pieces[ours.bos_id], pieces[ours.eos_id]


def _prove_equal_ids(
    ours: SentencePieceTokenizer, value: dict[str, Any], path: Path, pieces: list[str]
) -> None:
    """Compare ids and the way back on hard, likely and random strings."""
    library = open_library(value, path, ())
    for text in _trial_texts(pieces):
        theirs = list(library.encode(text, add_special_tokens=False).ids)
        if theirs != ours.encode(text) or library.decode(theirs) != text:
            raise DataError(
                f"{path} cannot be written as tokenizer.json: {text[:40]!r} would get other ids",
                "the same text would mean other tokens to the model",
                "use its tokenizer.model, which is exported too",
            )


def _trial_texts(pieces: list[str]) -> list[str]:
    rng = random.Random(1)
    words = [piece.replace(_SPACE, " ") for piece in pieces]
    rows = ["".join(rng.choices(words, k=20)) for _ in range(_N_ROWS)]
    letters = [*"  \n\t aeE.1<>", "\u00e9", "e\u0301", "\u65e5", "\U0001f389", "\x00", "\ufeff"]
    strings = []
    for _ in range(_N_STRINGS):
        row = [
            rng.choice(letters) if rng.random() < 0.6 else chr(rng.randrange(1, 0x2FFFF))
            for _ in range(rng.randint(1, 24))
        ]
        strings.append("".join(c for c in row if not "\ud800" <= c <= "\udfff"))
    runs = [c * n for c in " a\n=" for n in range(1, 70)]
    return [text.replace(_SPACE, "") for text in [*NASTY_TEXTS, *words, *rows, *strings, *runs]]
