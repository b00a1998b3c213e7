"""Tokenizers on their way from format to format.

Owns which files belong to a tokenizer, the extra ones that transformers wants, and the ids of BOS
and EOS. What a tokenizer does is the business of `ladderlm.tokenizer`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ladderlm.errors import CheckpointError, LadderError
from ladderlm.files import publish, publish_json, publish_text, read_json
from ladderlm.interop.tensors import inside
from ladderlm.interop.weights import Source
from ladderlm.tokenizer.base import load_tokenizer
from ladderlm.tokenizer.bpe import BOS, EOS

__all__ = ["copy_tokenizer", "has_tokenizer", "special_ids", "write_hf_tokenizer"]

_CORE = ("tokenizer.json", "tokenizer.model")
_FILES = (
    *_CORE,
    "ladderlm.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_MOST_BYTES = 256 << 20


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds a tokenizer of any kind."""
    return any((folder / name).is_file() for name in _CORE)


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy every file of a tokenizer; one of ours gets back the bytes it was recorded with.

    Raises:
        CheckpointError: there is none, or a file is no plain file of reasonable size.
    """
    if not has_tokenizer(folder):
        raise CheckpointError(
            f"{folder} holds no tokenizer", f"it would be {' or '.join(_CORE)}", "check the path"
        )
    for name in _FILES:
        if (folder / name).exists() or (folder / name).is_symlink():
            path = inside(folder, name)
            if path.stat().st_size > _MOST_BYTES:
                raise CheckpointError(f"{path} is larger than {_MOST_BYTES:,} bytes")
            data = path.read_bytes()
            publish(out / name, lambda stream, data=data: stream.write(data))
    if _is_ours(out / "tokenizer.json"):
        _write_ours(out, None)


def _is_ours(path: Path) -> bool:
    """Tell whether a `tokenizer.json` has BOS and EOS where ladderlm's own have them."""
    if not path.is_file() or not path.with_name("ladderlm.json").is_file():
        return False
    value = read_json(path)
    added = value.get("added_tokens") if isinstance(value, dict) else None
    return isinstance(added, list) and [t.get("content") for t in added] == [BOS, EOS]


def _write_ours(out: Path, post_processor: dict[str, Any] | None) -> None:
    """Set what happens after encoding (the only part that Hugging Face needs otherwise)."""
    value = read_json(out / "tokenizer.json") | {"post_processor": post_processor}
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    publish_text(out / "tokenizer.json", text)
    record = read_json(out / "ladderlm.json")
    record["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    publish_json(out / "ladderlm.json", record)


def write_hf_tokenizer(folder: Path, out: Path, max_seq_len: int) -> None:
    """Copy a tokenizer into a Hugging Face folder, so that AutoTokenizer opens it.

    One of ours gets a step that puts BOS before a text, as in training, and a
    `tokenizer_config.json`; a foreign one is left as it is.
    """
    copy_tokenizer(folder, out)
    if not _is_ours(out / "tokenizer.json"):
        return
    tokenizer = load_tokenizer(out)
    begin = {"SpecialToken": {"id": BOS, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    bos = {"id": BOS, "ids": [tokenizer.bos_id], "tokens": [BOS]}
    processor = {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, {"SpecialToken": {"id": BOS, "type_id": 1}}, second],
        "special_tokens": {BOS: bos},
    }
    _write_ours(out, processor)
    options = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": max_seq_len,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    publish_json(out / "tokenizer_config.json", options)


def special_ids(source: Source) -> dict[str, Any]:
    """Give `bos_token_id` and `eos_token_id`: what the source says, else what its tokenizer does.

    None where neither is known.
    """
    ids = {"bos_token_id": None, "eos_token_id": None, **source.generation}
    if source.tokenizer is not None and None in ids.values():
        try:
            tokenizer = load_tokenizer(source.tokenizer)
        except LadderError:
            return ids  # of a kind that only its own tools can read
        ids |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    return ids
