"""Open tokenizers made by other tools, and import them into folders of ours.

Owns the detection of a tokenizer's kind, the choice of BOS and EOS, and the import. Each kind has a
module of its own.
"""

import functools
from pathlib import Path
from typing import Any

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import publish, read_json, sha256_file
from ladderlm.tokenizer.base import (
    BOS,
    EOS,
    HUGGING_FACE,
    NASTY_TEXTS,
    OWN,
    RECORD,
    SENTENCEPIECE,
    TIKTOKEN,
    Tokenizer,
    publish_record,
)
from ladderlm.tokenizer.hugging_face import (
    HuggingFaceTokenizer,
    convert_byte_level,
    find_controls,
    open_library,
)
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer
from ladderlm.tokenizer.tiktoken_file import load_tiktoken, looks_like_tiktoken

__all__ = ["find_file", "import_tokenizer", "open_foreign", "open_recorded"]

_NAMES = ("tokenizer.json", "tokenizer.model")


def find_file(place: Path) -> Path:
    """Return the one file of a tokenizer, or raise DataError if there is none or two."""
    if place.is_file():
        return place
    found = [place / name for name in _NAMES if (place / name).is_file()]
    if not found:
        raise DataError(
            f"{place} contains no tokenizer.json and no tokenizer.model",
            fix="train one with `ladderlm tokenizer train SOURCE... --vocab-size N --out DIR`",
        )
    if len(found) > 1:
        what = f"{place} contains both {' and '.join(_NAMES)}"
        raise DataError(what, "their ids may differ", "name the file to use")
    return found[0]


def open_foreign(
    place: Path, bos: str | None = None, eos: str | None = None, *, allow_lossy: bool = False
) -> Tokenizer:
    """Open the tokenizer in a file or folder that has no record of ours.

    Args:
        bos, eos: names of added tokens of a `tokenizer.json`. Default: detected.
        allow_lossy: accept a tokenizer that does not restore every text.

    Raises:
        DataError: missing, damaged, lossy, of an unknown kind, or without EOS.
    """
    path = find_file(place)
    return _open(path, *_identify(path, bos, eos, allow_lossy))


def import_tokenizer(
    place: Path,
    out: Path,
    bos: str | None = None,
    eos: str | None = None,
    *,
    allow_lossy: bool = False,
) -> Tokenizer:
    """Copy a tokenizer into a folder of ours, with its record; see `open_foreign`."""
    path = find_file(place)
    model, facts = _identify(path, bos, eos, allow_lossy)
    tokenizer = _open(path, model, facts)
    copy = out / _NAMES[model != HUGGING_FACE]
    publish(copy, lambda stream: stream.write(path.read_bytes()))
    publish_record(out, tokenizer, model, sha256_file(copy), facts)
    return tokenizer


def open_recorded(path: Path, record: dict[str, Any]) -> Tokenizer:
    """Open an imported tokenizer as its record says, or raise DataError if either is damaged."""
    facts = {key: record.get(key) for key in ("bos", "eos", "lossy", "engine")}
    if record["model"] == HUGGING_FACE and None in facts.values():
        raise DataError(
            f"{path.with_name(RECORD)} must contain {', '.join(facts)}",
            f"it does not say how {path.name} is used",
            "import the tokenizer again",
        )
    return _open(path, record["model"], facts)


def _identify(
    path: Path, bos: str | None, eos: str | None, allow_lossy: bool
) -> tuple[str, dict[str, Any]]:
    """Return the kind of a file, and the facts about its use that a record must contain."""
    head = path.read_bytes()[:4096]
    if head.lstrip()[:1] in (b"{", b"[") or path.suffix == ".json":
        return HUGGING_FACE, _decide_use(path, bos, eos, allow_lossy)
    if bos or eos:
        raise DataError(
            f"{path.name} has fixed control tokens; --bos and --eos are for a tokenizer.json only",
            fix="leave --bos and --eos out",
        )
    if looks_like_tiktoken(head):
        return TIKTOKEN, {"bos": BOS, "eos": EOS}
    return SENTENCEPIECE, {}


def _decide_use(path: Path, bos: str | None, eos: str | None, allow_lossy: bool) -> dict[str, Any]:
    """Choose control tokens and engine for a `tokenizer.json`, and test whether it loses texts."""
    value = _read_hugging_face(path)
    added = sorted({token["content"] for token in value["added_tokens"]})
    for name in (bos, eos):
        if name is not None and name not in added:
            raise DataError(f"{path} has no added token {name!r}", fix=f"name one of {added[:20]}")
    found = find_controls(value, path)
    bos, eos = bos or found[0], eos or found[1]
    if eos is None:
        raise DataError(
            f"{path} does not say which token ends a document",
            f"its added tokens are {added[:20]}",
            "import it with `ladderlm tokenizer import FILE --eos NAME --out DIR`",
        )
    facts: dict[str, Any] = {"bos": bos or eos, "eos": eos, "lossy": False}
    if bos is None:
        facts["bos_is_substitute"] = True
    tokenizer = _open_hugging_face(path, facts | {"engine": OWN}, prove=True)
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return facts | {"engine": OWN}
    losses = [text for text in NASTY_TEXTS if tokenizer.loses(text)]
    # LLaMA 2's file loses only U+2581, which is rare: such texts are refused one by one.
    lost = next((text for text in losses if "\u2581" not in text), None)
    if lost is not None and not allow_lossy:
        raise DataError(
            f"{path} loses text: {lost!r} comes back as {tokenizer.come_back(lost)!r}",
            "bits per byte and samples would refer to a different text",
            "use another tokenizer, or record it as lossy with "
            "`ladderlm tokenizer import FILE --allow-lossy --out DIR`",
        )
    return facts | {"engine": "tokenizers", "lossy": bool(losses) and allow_lossy}


def _read_hugging_face(path: Path) -> dict[str, Any]:
    value = read_json(path)
    tokens = value.get("added_tokens") if isinstance(value, dict) else None
    if (
        not isinstance(tokens, list)
        or not isinstance(value.get("model"), dict)
        or not all(map(_is_added_token, tokens))
    ):
        raise DataError(
            f"{path} is not a tokenizer.json: it must have a model and added tokens with ids",
            fix="download it again",
        )
    ours = path.name == "tokenizer.json" and {t["content"] for t in tokens} == {BOS, EOS}
    if ours and not path.with_name(RECORD).exists():
        raise DataError(
            f"{path} was written by `ladderlm tokenizer train`, but its {RECORD} is missing",
            "a changed byte would go unnoticed",
            f"copy {RECORD} next to it, or train the tokenizer again",
        )
    return dict(value)


def _is_added_token(token: Any) -> bool:
    types = {"content": str, "id": int, "special": bool}
    return isinstance(token, dict) and all(type(token.get(key)) is t for key, t in types.items())


def _open(path: Path, model: str, facts: dict[str, Any]) -> Tokenizer:
    if model == HUGGING_FACE:
        return _open_hugging_face(path, facts, prove=False)
    make = load_tiktoken if model == TIKTOKEN else SentencePieceTokenizer
    return make(path.read_bytes(), str(path))


def _open_hugging_face(path: Path, facts: dict[str, Any], *, prove: bool) -> Tokenizer:
    value = _read_hugging_face(path)
    bos, eos = facts["bos"], facts["eos"]
    controls = {t["content"]: t["id"] for t in value["added_tokens"]}
    if not {bos, eos} <= controls.keys():
        what = f"{path} has no added tokens {bos} and {eos}"
        raise DataError(what, fix="import the tokenizer again")
    fingerprint = content_hash([HUGGING_FACE, sha256_file(path), bos, eos])
    library = functools.cache(lambda: open_library(value, path, (bos, eos)))
    if facts["engine"] == OWN:
        own = convert_byte_level(value, library, bos, eos, fingerprint, prove=prove)
        if own is not None:
            return own
    special = {t["content"] for t in value["added_tokens"] if t["special"]} | {bos, eos}
    controls = {name: i for name, i in controls.items() if name in special}
    lossy = bool(facts["lossy"])
    return HuggingFaceTokenizer(
        library(), controls, bos, eos, fingerprint=fingerprint, lossy=lossy, name=str(path)
    )
