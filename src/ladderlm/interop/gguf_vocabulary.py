"""A tokenizer as llama.cpp stores it.

Owns the reading of the three kinds of vocabulary files (a byte-level `tokenizer.json` with Llama
3's split, SentencePiece's and tiktoken's `tokenizer.model`) into GGUF's lists: pieces, kinds, merges
or scores, special ids.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

from ladderlm.errors import CheckpointError
from ladderlm.files import read_json
from ladderlm.interop.tensors import inside
from ladderlm.interop.weights import Source
from ladderlm.tokenizer.bpe import BOS, EOS, SPLIT_PATTERN, byte_alphabet, tokenizer_json

__all__ = ["read_vocabulary"]

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's numbers
_N_RESERVED = 256  # special tokens of Llama 3, behind the merges


def read_vocabulary(source: Source, vocab_size: int) -> dict[str, Any]:
    """Give the arguments of `GGUFWriter.add_<key>` for a model's tokenizer.

    Pieces are padded to the model's `vocab_size` with unused ones.

    Raises:
        CheckpointError: unreadable, larger than the model, or split in a way llama.cpp has no
            name for.
    """
    folder = source.tokenizer
    assert folder is not None
    if (folder / "tokenizer.json").is_file():
        found = _from_json(inside(folder, "tokenizer.json"))
    else:
        path = inside(folder, "tokenizer.model")
        with open(path, "rb") as stream:
            is_text = re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", stream.read(400)) is not None
        found = _from_tiktoken(path) if is_text else _from_sentencepiece(path)
    pieces, kinds = found["token_list"], found["token_types"]
    if len(pieces) > vocab_size:
        raise CheckpointError(
            f"{folder} has {len(pieces):,} tokens, the model {vocab_size:,}",
            "the model has no row for some of them",
            "name the model's own tokenizer: --tokenizer DIR",
        )
    n_more = vocab_size - len(pieces)
    pieces += [f"[PAD{i}]" for i in range(n_more)]
    kinds += [_UNUSED] * n_more
    if "token_scores" in found:
        found["token_scores"] += [0.0] * n_more
    for key, theirs in (("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")):
        stated = source.generation.get(theirs)
        if isinstance(stated, int):
            found[key] = stated
    return found


def _byte_level(pieces: list[str], kinds: list[int], merges: list[str]) -> dict[str, Any]:
    return {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "llama-bpe",
        "token_list": pieces,
        "token_types": kinds,
        "token_merges": merges,
        "bos_token_id": pieces.index(BOS),
        "eos_token_id": pieces.index(EOS),
        "add_bos_token": True,
    }


def _from_json(path: Path) -> dict[str, Any]:
    value = read_json(path)
    try:
        pattern = value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        model, added = value["model"], value["added_tokens"]
        by_id = {i: piece for piece, i in model["vocab"].items()}
        special = {token["id"]: bool(token["special"]) for token in added}
        by_id |= {token["id"]: token["content"] for token in added}
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        pieces = [by_id[i] for i in range(len(by_id))]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a byte-level BPE ({error})", "llama.cpp would split text otherwise"
        ) from error
    if pattern != SPLIT_PATTERN or BOS not in pieces or EOS not in pieces:
        raise CheckpointError(
            f"{path} splits text by another pattern than Llama 3's, or has other control tokens",
            "llama.cpp knows patterns by name, and only that one's name is known here",
            "convert the model with the tools of llama.cpp",
        )
    kinds = [
        (_CONTROL if special[i] else _USER) if i in special else _NORMAL for i in range(len(pieces))
    ]
    return _byte_level(pieces, kinds, merges)


def _from_tiktoken(path: Path) -> dict[str, Any]:
    """Read Llama 3's file: base64 of the bytes and the rank, a line each; controls follow."""
    ranks = {}
    try:
        for line in path.read_bytes().splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except ValueError as error:
        raise CheckpointError(f"{path} is not a tiktoken file ({error})") from error
    alphabet = byte_alphabet()
    ordered = sorted(ranks, key=lambda token: ranks[token])
    merges = json.loads(tokenizer_json(ranks))["model"]["merges"]
    named = {0: BOS, 1: EOS, 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: "<|eot_id|>"}
    n, specials = 0, []
    for i in range(_N_RESERVED):
        specials.append(named.get(i, f"<|reserved_special_token_{n}|>"))
        n += i not in named
    pieces = ["".join(alphabet[byte] for byte in token) for token in ordered] + specials
    kinds = [_NORMAL] * len(ordered) + [_CONTROL] * _N_RESERVED
    return _byte_level(pieces, kinds, [" ".join(pair) for pair in merges])


def _from_sentencepiece(path: Path) -> dict[str, Any]:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no SentencePiece model ({error})") from error

    def kind(i: int) -> int:
        if model.is_unknown(i):
            return _UNKNOWN
        if model.is_control(i):
            return _CONTROL
        if model.is_byte(i):
            return _BYTE
        return _UNUSED if model.is_unused(i) else _NORMAL

    ids = range(model.vocab_size())
    return {
        "tokenizer_model": "llama",
        "tokenizer_pre": "default",
        "token_list": [model.id_to_piece(i) for i in ids],
        "token_types": [kind(i) for i in ids],
        "token_scores": [model.get_score(i) for i in ids],
        "bos_token_id": model.bos_id(),
        "eos_token_id": model.eos_id(),
        "unk_token_id": model.unk_id(),
        "add_bos_token": True,
    }
