"""Open the tokenizer in a folder, and copy it.

Owns `load_tokenizer`, which reads the record `ladderlm.json` next to a tokenizer's file and
compares the file with it. Files without a record are opened by `foreign.py`.
"""

from pathlib import Path
from typing import Any

from ladderlm.errors import DataError
from ladderlm.files import publish, read_json, sha256_file
from ladderlm.tokenizer.base import HUGGING_FACE, OWN, RECORD, SENTENCEPIECE, TIKTOKEN, Tokenizer
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.bpe_file import read_ranks
from ladderlm.tokenizer.foreign import import_tokenizer, open_foreign, open_recorded

__all__ = ["copy_tokenizer", "load_tokenizer", "tokenizer_files"]

_FILES = {
    OWN: "tokenizer.json",
    HUGGING_FACE: "tokenizer.json",
    SENTENCEPIECE: "tokenizer.model",
    TIKTOKEN: "tokenizer.model",
}
_RESTORE = "restore the folder, or make it again with `ladderlm tokenizer train` or `import`"


def load_tokenizer(place: Path | str) -> Tokenizer:
    """Open a tokenizer: a folder of ours, or a foreign file or folder as it is.

    Raises:
        DataError: missing, damaged, changed since it was recorded, or of a kind that is not known.
    """
    place = Path(place)
    if not (place / RECORD).is_file():
        return open_foreign(place)
    record = _read_record(place)
    path = place / _FILES[record["model"]]
    if record["model"] == OWN:
        tokenizer: Tokenizer = BytePairTokenizer(read_ranks(path))
    else:
        tokenizer = open_recorded(path, record)
    if record["fingerprint"] != tokenizer.fingerprint:
        raise DataError(
            f"{path} does not match the fingerprint in {place / RECORD}",
            "ids would not mean what they meant when the data was prepared",
            _RESTORE,
        )
    return tokenizer


def _read_record(folder: Path) -> dict[str, Any]:
    """Read `ladderlm.json` and compare the tokenizer's file with it, byte for byte."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not {"fingerprint", "sha256"} <= record.keys():
        raise DataError(
            f"{folder / RECORD} records no fingerprint and sha256 of a tokenizer",
            "nothing would show a changed byte",
            _RESTORE,
        )
    record.setdefault("model", OWN)
    if record["model"] not in list(_FILES):  # it may be of any type
        raise DataError(
            f"{folder / RECORD} names a model {record['model']!r} that is not known",
            f"known are {', '.join(_FILES)}",
            "it may come from a newer ladderlm: update, or " + _RESTORE,
        )
    path = folder / _FILES[record["model"]]
    if not path.is_file():
        raise DataError(f"{folder} holds no {path.name}", f"{RECORD} speaks of it", _RESTORE)
    if record["sha256"] != sha256_file(path):
        raise DataError(
            f"{path} does not match the sha256 in {folder / RECORD}",
            "a byte of it was changed",
            _RESTORE,
        )
    return record


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files of a tokenizer folder of ours; the record, last, vouches for the other."""
    return [folder / _FILES[_read_record(folder)["model"]], folder / RECORD]


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put a tokenizer into a folder that others can load; a foreign one is imported.

    Raises:
        DataError: as `load_tokenizer`.
    """
    if not (source / RECORD).is_file():
        import_tokenizer(source, folder)
        return
    for path in tokenizer_files(source):
        data = path.read_bytes()
        publish(folder / path.name, lambda stream, data=data: stream.write(data))  # type: ignore[misc]
