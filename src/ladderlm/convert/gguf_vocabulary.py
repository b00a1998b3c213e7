"""A tokenizer as llama.cpp stores it.

Owns GGUF's lists for two kinds of tokenizers: byte-level BPE with Llama 3's split (ladderlm's own
and Llama 3's), and SentencePiece. The lists hold pieces, their types, merges or scores, and special
ids.
"""

import json
from pathlib import Path
from typing import Any

from ladderlm.convert.weights import Source, check_vocabulary, require_tokenizer
from ladderlm.errors import CheckpointError
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.bpe_file import byte_alphabet, tokenizer_json
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer
from ladderlm.tokenizer.split import SPLIT_PATTERN

__all__ = ["NORMAL_PIECE", "read_pieces", "read_vocabulary"]

NORMAL_PIECE = 1
_UNKNOWN, _CONTROL, _UNUSED, _BYTE = 2, 3, 5, 6  # llama.cpp's numbers


def read_vocabulary(source: Source) -> dict[str, Any]:
    """Return the arguments of `GGUFWriter.add_<key>` for a model's tokenizer.

    The pieces are padded to the size of the model with unused ones.

    Raises:
        CheckpointError: the tokenizer is missing, too large, or of a kind without a name in GGUF.
    """
    place = require_tokenizer(source)
    tokenizer = load_tokenizer(place)
    if isinstance(tokenizer, BytePairTokenizer) and tokenizer.pattern == SPLIT_PATTERN:
        found = _byte_level(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        found = read_pieces(place if place.is_file() else place / "tokenizer.model")
    else:
        raise CheckpointError(
            f"the tokenizer in {place} cannot be written into a GGUF file",
            "GGUF stores how a text is split by name, and only the names of Llama 3's split and of "
            "SentencePiece are known",
            "convert the model with llama.cpp's own tools",
        )
    check_vocabulary(len(found["token_list"]), place, source.config)
    n_more = source.config.vocabulary - len(found["token_list"])
    found["token_list"] += [f"[PAD{i}]" for i in range(n_more)]
    found["token_types"] += [_UNUSED] * n_more
    if "token_scores" in found:
        found["token_scores"] += [0.0] * n_more
    return found | {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "add_bos_token": True,
    }


def _byte_level(tokenizer: BytePairTokenizer) -> dict[str, Any]:
    alphabet = byte_alphabet()
    by_id = {i: "".join(alphabet[byte] for byte in token) for token, i in tokenizer.ranks.items()}
    kinds = dict.fromkeys(by_id, NORMAL_PIECE)
    by_id |= {i: name for name, i in tokenizer.controls.items()}
    kinds |= dict.fromkeys(tokenizer.controls.values(), _CONTROL)
    text = tokenizer_json(tokenizer.ranks, tokenizer.pattern, tokenizer.controls)
    ids = range(tokenizer.vocab_size)
    return {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "llama-bpe",
        "token_list": [by_id.get(i, f"[GAP{i}]") for i in ids],
        "token_types": [kinds.get(i, _UNUSED) for i in ids],
        "token_merges": [" ".join(pair) for pair in json.loads(text)["model"]["merges"]],
    }


def read_pieces(path: Path) -> dict[str, Any]:
    """Return the pieces of a SentencePiece model with types and scores, as GGUF lists them."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))

    tests = {
        _UNKNOWN: model.is_unknown,
        _CONTROL: model.is_control,
        _BYTE: model.is_byte,
        _UNUSED: model.is_unused,
    }

    def kind(i: int) -> int:
        return next((number for number, test in tests.items() if test(i)), NORMAL_PIECE)

    ids = range(model.vocab_size())
    return {
        "tokenizer_model": "llama",
        "tokenizer_pre": "default",
        "token_list": [model.id_to_piece(i) for i in ids],
        "token_types": [kind(i) for i in ids],
        "token_scores": [model.get_score(i) for i in ids],
        "unk_token_id": model.unk_id(),
    }
