"""Open and copy the tokenizer of a folder.

Owns `load_tokenizer`, which compares a tokenizer's file with the record `ladderlm.json` next to it.
`foreign.py` opens files without a record.
"""

from pathlib import Path
from typing import Any

from ladderlm.errors import DataError
from ladderlm.files import publish_stream, read_json, sha256_file
from ladderlm.tokenizer.base import HUGGING_FACE, OWN, RECORD, SENTENCEPIECE, TIKTOKEN, Tokenizer
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.bpe_file import read_ranks
from ladderlm.tokenizer.foreign import import_tokenizer, open_foreign, open_recorded

__all__ = ["copy_tokenizer", "load_tokenizer", "tokenizer_files"]

_FILES = dict.fromkeys((OWN, HUGGING_FACE), "tokenizer.json")
_FILES |= dict.fromkeys((SENTENCEPIECE, TIKTOKEN), "tokenizer.model")
_RESTORE = "restore the folder, or make it again with `ladderlm tokenizer train` or `import`"


def load_tokenizer(place: Path | str) -> Tokenizer:
    """Open a tokenizer: a folder of ours, or a foreign file or folder.

    Raises:
        DataError: missing, damaged, changed since it was recorded, or of an unknown kind.
    """
    place = Path(place)
    if not (place / RECORD).is_file():
        return open_foreign(place)
    record = _read_record(place)
    path = place / _FILES[record["model"]]
    own = record["model"] == OWN
    tokenizer = BytePairTokenizer(read_ranks(path)) if own else open_recorded(path, record)
    if record["fingerprint"] != tokenizer.fingerprint:
        raise DataError(
            f"{path} does not match the fingerprint in {place / RECORD}",
            "ids would have another meaning than when the data was prepared",
            _RESTORE,
        )
    return tokenizer


def _read_record(folder: Path) -> dict[str, Any]:
    """Read `ladderlm.json`, and check the sha256 of the tokenizer's file."""
    place = folder / RECORD
    record = read_json(place)
    if not isinstance(record, dict) or not {"fingerprint", "sha256"} <= record.keys():
        what = f"{place} must contain the fingerprint and the sha256 of a tokenizer"
        raise DataError(what, "a changed byte would go unnoticed", _RESTORE)
    record.setdefault("model", OWN)
    if record["model"] not in list(_FILES):  # it may be of any type
        raise DataError(
            f"model in {place} must be one of {', '.join(_FILES)}, got {record['model']!r}",
            "the folder may come from a newer ladderlm",
            "update ladderlm, or " + _RESTORE,
        )
    path = folder / _FILES[record["model"]]
    if not path.is_file():
        raise DataError(f"{folder} contains no {path.name}, which {RECORD} names", fix=_RESTORE)
    if record["sha256"] != sha256_file(path):
        raise DataError(f"{path} does not match the sha256 in {place}", fix=_RESTORE)
    return record


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a tokenizer folder of ours: the tokenizer, then its record."""
    return [folder / _FILES[_read_record(folder)["model"]], folder / RECORD]


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy a tokenizer into a folder of ours; a foreign one is imported."""
    if not (source / RECORD).is_file():
        import_tokenizer(source, folder)
        return
    for path in tokenizer_files(source):
        with publish_stream(folder / path.name) as stream:
            stream.write(path.read_bytes())
