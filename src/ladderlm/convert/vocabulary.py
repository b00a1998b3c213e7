"""Tokenizers of converted models.

Owns the search for a model's tokenizer, the extra files that transformers needs, and the ids of BOS
and EOS. `ladderlm.tokenizer` opens and copies tokenizers.
"""

import json
import logging
from pathlib import Path
from typing import Any

from ladderlm.convert.sentencepiece_json import sentencepiece_json
from ladderlm.convert.tensors import inside
from ladderlm.convert.weights import Source
from ladderlm.errors import DataError, LadderError
from ladderlm.files import publish_json, publish_stream, publish_text, read_json, sha256_file
from ladderlm.tokenizer.base import HUGGING_FACE, OWN, RECORD
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.bpe_file import tokenizer_json
from ladderlm.tokenizer.load import copy_tokenizer, load_tokenizer
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer

__all__ = ["find_tokenizer", "special_ids", "write_hf_tokenizer"]

_log = logging.getLogger(__name__)

_FILES = ("tokenizer.json", "tokenizer.model")
_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MOST_BYTES = 64 << 20


def find_tokenizer(place: Path, first: str = "tokenizer.json") -> Path | None:
    """Return the place that `load_tokenizer` opens, a folder with a record or a file, or None.

    Args:
        place: a folder or a file.
        first: the file to choose if a folder holds both kinds.
    """
    if place.is_file() or (place / RECORD).is_file():
        return place
    names = (name for name in (first, *_FILES) if (place / name).is_file())
    found = next(names, None)
    return None if found is None else inside(place, found)


def write_hf_tokenizer(place: Path, out: Path, max_seq_len: int) -> None:
    """Write a tokenizer into a Hugging Face folder, so that AutoTokenizer opens it.

    A byte-level BPE is written as a `tokenizer.json` that puts BOS before a text, as in training,
    with its record, so that ladderlm opens it too. A SentencePiece model is copied, and a
    `tokenizer.json` is added if it has the same ids. Others are copied with their extra files.
    """
    tokenizer = load_tokenizer(place)
    record = read_json(place / RECORD) if (place / RECORD).is_file() else {}
    kind = record.get("model", OWN if record else None)
    if isinstance(tokenizer, SentencePieceTokenizer):
        _copy(place, out)
        try:
            value, bos, eos = sentencepiece_json(out / "tokenizer.model")
        except DataError as error:
            _log.warning("%s", error)
            return
    elif (
        not isinstance(tokenizer, BytePairTokenizer)
        or kind == HUGGING_FACE
        or place.name == _FILES[0]
    ):
        _copy(place, out)
        return
    else:
        names = {i: name for name, i in tokenizer.controls.items()}
        bos, eos = names[tokenizer.bos_id], names[tokenizer.eos_id]
        value = json.loads(tokenizer_json(tokenizer.ranks, tokenizer.pattern, tokenizer.controls))
    value["post_processor"] = _bos_first(bos, tokenizer.bos_id)
    publish_text(out / _FILES[0], json.dumps(value, ensure_ascii=False, indent=1) + "\n")
    if kind == OWN:
        publish_json(out / RECORD, record | {"sha256": sha256_file(out / _FILES[0])})
    options = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "model_max_length": max_seq_len,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    publish_json(out / "tokenizer_config.json", options)


def _copy(place: Path, out: Path) -> None:
    """Copy a tokenizer and the files of transformers next to it."""
    copy_tokenizer(place, out)
    folder = place if place.is_dir() else place.parent
    for name in _EXTRAS:
        if (folder / name).is_file() and (folder / name).stat().st_size < _MOST_BYTES:
            with publish_stream(out / name) as stream:
                stream.write(inside(folder, name).read_bytes())


def _bos_first(bos: str, bos_id: int) -> dict[str, Any]:
    begin = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, {"SpecialToken": {"id": bos, "type_id": 1}}, second],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }


def special_ids(source: Source) -> dict[str, Any]:
    """Return `bos_token_id` and `eos_token_id` of the source or its tokenizer; None: unknown."""
    ids = {"bos_token_id": None, "eos_token_id": None, **source.generation}
    if source.tokenizer is not None and None in ids.values():
        try:
            tokenizer = load_tokenizer(source.tokenizer)
        except LadderError:
            return ids  # a kind that only its own tools can read
        ids |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    return ids
