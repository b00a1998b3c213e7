"""Open tokenizers that others made, and import them into folders of ours.

Owns telling the kinds apart by their files, the choice of BOS and EOS, and the record of an
imported tokenizer. The kinds themselves are in modules of their own.
"""

import functools
from pathlib import Path
from typing import Any

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import publish, publish_json, read_json, sha256_file
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
)
from ladderlm.tokenizer.hugging_face import (
    HuggingFaceTokenizer,
    convert_byte_level,
    find_controls,
    open_library,
)
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer
from ladderlm.tokenizer.tiktoken_file import looks_like_tiktoken

__all__ = ["find_file", "import_tokenizer", "open_foreign", "open_recorded"]

_NAMES = ("tokenizer.json", "tokenizer.model")
_FORMAT_VERSION = 1


def find_file(place: Path) -> Path:
    """Find the one file of a tokenizer.

    Raises:
        DataError: there is none, or two of them.
    """
    if place.is_file():
        return place
    found = [place / name for name in _NAMES if (place / name).is_file()]
    if not found:
        raise DataError(
            f"{place} holds no tokenizer.json and no tokenizer.model",
            "it is not a tokenizer" + " folder" * place.is_dir(),
            "make one with `ladderlm tokenizer train SOURCE... --vocab-size N --out DIR`",
        )
    if len(found) > 1:
        raise DataError(
            f"{place} holds both {' and '.join(_NAMES)}",
            "their ids may differ",
            "name the file to use",
        )
    return found[0]


def open_foreign(
    place: Path, bos: str | None = None, eos: str | None = None, *, allow_lossy: bool = False
) -> Tokenizer:
    """Open a tokenizer that has no record of ours.

    Args:
        place: a file, or a folder with one `tokenizer.json` or `tokenizer.model`.
        bos, eos: names of added tokens of a `tokenizer.json`; None: found by themselves.
        allow_lossy: take one that does not give every text back.

    Raises:
        DataError: missing, damaged, lossy, of no known kind, or without EOS.
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
    """Copy a foreign tokenizer into a folder of ours, with its record.

    Raises:
        DataError: as `open_foreign`.
    """
    path = find_file(place)
    model, facts = _identify(path, bos, eos, allow_lossy)
    tokenizer = _open(path, model, facts)
    data = path.read_bytes()
    name = "tokenizer.json" if model == HUGGING_FACE else "tokenizer.model"
    publish(out / name, lambda stream: stream.write(data))
    record = {
        "kind": "ladderlm-tokenizer",
        "format_version": _FORMAT_VERSION,
        "model": model,
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "sha256": sha256_file(out / name),
        **facts,
    }
    publish_json(out / RECORD, record)
    return tokenizer


def open_recorded(path: Path, record: dict[str, Any]) -> Tokenizer:
    """Open an imported tokenizer as its record says.

    Raises:
        DataError: damaged, or the record lacks something.
    """
    facts = {key: record.get(key) for key in ("bos", "eos", "lossy", "engine")}
    if record["model"] == HUGGING_FACE and None in facts.values():
        raise DataError(
            f"{path.with_name(RECORD)} does not say how {path.name} is used",
            f"it needs {', '.join(facts)}",
            "import the tokenizer again",
        )
    return _open(path, record["model"], facts)


def _identify(
    path: Path, bos: str | None, eos: str | None, allow_lossy: bool
) -> tuple[str, dict[str, Any]]:
    """Return which model a file is, and decide what a record must say about its use."""
    head = path.read_bytes()[:4096]
    if head.lstrip()[:1] in (b"{", b"[") or path.suffix == ".json":
        return HUGGING_FACE, _decide_use(path, bos, eos, allow_lossy)
    if bos or eos:
        raise DataError(
            f"{path.name} has fixed control tokens",
            "BOS and EOS can be named for a tokenizer.json only",
            "leave --bos and --eos out",
        )
    if looks_like_tiktoken(head):
        return TIKTOKEN, {"bos": BOS, "eos": EOS}
    return SENTENCEPIECE, {}


def _decide_use(path: Path, bos: str | None, eos: str | None, allow_lossy: bool) -> dict[str, Any]:
    """Choose control tokens and engine for a `tokenizer.json`, and try whether it loses texts."""
    value = _read_hugging_face(path)
    found = find_controls(value, path)
    added = {token["content"] for token in value["added_tokens"]}
    for name in (bos, eos):
        if name is not None and name not in added:
            raise DataError(
                f"{path} has no added token {name!r}", f"it has {sorted(added)[:20]}", "name one"
            )
    eos = eos or found[1]
    if eos is None:
        raise DataError(
            f"{path} does not say which token ends a document",
            f"its added tokens are {sorted(added)[:20]}",
            "import it with `ladderlm tokenizer import FILE --eos NAME --out DIR`",
        )
    begins = bos or found[0]
    facts: dict[str, Any] = {"bos": begins or eos, "eos": eos, "lossy": False}
    if begins is None:
        facts["bos_is_substitute"] = True
    tokenizer = _open_hugging_face(path, facts | {"engine": OWN}, prove=True)
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return facts | {"engine": OWN}
    losses = [text for text in NASTY_TEXTS if tokenizer.loses(text)]
    # LLaMA 2's file loses U+2581 alone, which is rare: such texts are refused one by one.
    lost = next((text for text in losses if "\u2581" not in text), None)
    if lost is not None and not allow_lossy:
        back = tokenizer.come_back(lost)
        raise DataError(
            f"{path} loses text: {lost!r} comes back as {back!r}",
            "bits per byte and samples are about the text as it was",
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
        or [True for t in tokens if not _is_added_token(t)]
    ):
        raise DataError(
            f"{path} is not a tokenizer.json",
            "it needs a model and a list of added tokens with ids",
            "get it again from where it came",
        )
    names = {t["content"] for t in tokens}
    ours = path.name == "tokenizer.json" and names == {BOS, EOS}
    if ours and not path.with_name(RECORD).exists():
        raise DataError(
            f"{path} stands without its {RECORD}",
            "it was written by `ladderlm tokenizer train`, and nothing would show a changed byte",
            f"copy {RECORD} next to it, or train the tokenizer again",
        )
    return dict(value)


def _is_added_token(token: Any) -> bool:
    types = {"content": str, "id": int, "special": bool}
    return isinstance(token, dict) and all(type(token.get(key)) is t for key, t in types.items())


def _open(path: Path, model: str, facts: dict[str, Any]) -> Tokenizer:
    if model == HUGGING_FACE:
        return _open_hugging_face(path, facts, prove=False)
    if model == TIKTOKEN:
        from ladderlm.tokenizer.tiktoken_file import load_tiktoken

        return load_tiktoken(path.read_bytes(), str(path))
    return SentencePieceTokenizer(path.read_bytes(), str(path))


def _open_hugging_face(path: Path, facts: dict[str, Any], *, prove: bool) -> Tokenizer:
    value = _read_hugging_face(path)
    bos, eos = facts["bos"], facts["eos"]
    controls = {t["content"]: t["id"] for t in value["added_tokens"]}
    if not {bos, eos} <= controls.keys():
        raise DataError(f"{path} has no added tokens {bos} and {eos}", "", "import it again")
    special = {t["content"] for t in value["added_tokens"] if t["special"]} | {bos, eos}
    fingerprint = content_hash([HUGGING_FACE, sha256_file(path), bos, eos])
    library = functools.cache(lambda: open_library(value, path, (bos, eos)))
    if facts["engine"] == OWN:
        converted = convert_byte_level(value, library, bos, eos, fingerprint, prove=prove)
        if converted is not None:
            return converted
    return HuggingFaceTokenizer(
        library(),
        {name: i for name, i in controls.items() if name in special},
        bos,
        eos,
        fingerprint=fingerprint,
        lossy=bool(facts["lossy"]),
        name=str(path),
    )
