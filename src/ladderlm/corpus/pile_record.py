"""The record of a folder of Pile files: `pile.json`.

Owns the entry of each file, and which files count as present. An entry is written before its file
gets its name, so a file without an entry is one that the user put there.
"""

import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ladderlm.corpus.fetch import Fetched
from ladderlm.corpus.head import HeadLimits
from ladderlm.corpus.pile_sources import PACKED, PLAIN, PUBLISHED, Place
from ladderlm.corpus.transfer import version_file
from ladderlm.errors import ConfigError, DataError
from ladderlm.files import publish_json, read_json, remove_tree, sha256_file

__all__ = ["PileRecord"]

_BY_HAND = Place("put there by hand", "", None, (), "from where is not known", has_list=False)


class PileRecord:
    """The entries of `pile.json`, and their files.

    Args:
        out: folder; the caller holds its lock.

    `value` is the content of `pile.json`.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._file = out / "pile.json"
        self._lock = threading.Lock()
        self.value: dict[str, Any] = {"kind": "ladderlm-pile", "format_version": 1, "files": {}}
        if self._file.is_file():
            self.value = read_json(self._file)
            _check_record(self._file, self.value)
        for folder in (out, out / "train"):
            for left in folder.glob(".tmp-*"):
                remove_tree(left)  # of a process that was killed

    def has(self, stem: str, limits: HeadLimits, say: Callable[[str], None]) -> bool:
        """Return whether a file is present and intact; record one that the user put there.

        Raises:
            ConfigError: a head is wanted where the whole file is.
        """
        for name in (stem + PACKED, stem + PLAIN):
            path = self.out / name
            if not path.is_file():
                continue
            entry = self.value["files"].get(name)
            say(f"{name}: checking what is there")
            digest = sha256_file(path)
            if entry is not None and digest != entry["sha256"]:
                if name != stem + PACKED:
                    remove_tree(path)  # two files of one shard would be read as two shards
                continue
            if entry is None:
                file = Fetched(path, path.stat().st_size, digest, verified=False)
                facts = {"part": "whole", "checksum_known_beforehand": False}
                self.add(_BY_HAND, name, file, facts)
                say(f"{name}: was there already; now recorded")
            is_head = entry is not None and entry["part"] == "head"
            if limits and not is_head:
                raise ConfigError(
                    f"{path} is there, whole",
                    "its head would replace it",
                    "choose another --out for the head, or leave the limits out",
                )
            if not is_head or entry["limits"] == asdict(limits):
                return True
        return False

    def add(self, place: Place, name: str, file: Fetched, facts: dict[str, Any]) -> None:
        """Record a file. Threads may call this at the same time."""
        note = place.note
        if name in PUBLISHED and facts["part"] == "whole" and place.corpus is None:
            same = file.sha256 == PUBLISHED[name]
            note += f"; by its hash {'the' if same else 'not the'} original {name}"
        entry = {
            "source": place.name,
            "corpus": place.corpus,
            "note": note,
            "n_bytes": file.n_bytes,
            "sha256": file.sha256,
        }
        with self._lock:
            files = self.value["files"] | {name: entry | facts}
            other = name.removesuffix(".zst") if name.endswith(PACKED) else name + ".zst"
            if files.pop(other, None):  # damaged: otherwise it would have been kept
                remove_tree(self.out / other)
            self.value["files"] = dict(sorted(files.items()))
            publish_json(self._file, self.value)

    def corpus_of_train(self) -> str | None:
        """Return the corpus of the training shards in a folder; None if it is not known."""
        entries = self.value["files"].items()
        return next((e["corpus"] for n, e in entries if n[:6] == "train/" and e["corpus"]), None)

    def bytes_in_parts(self, stems: list[str]) -> int:
        """Count the bytes of unfinished files."""
        return sum(part.stat().st_size for stem in stems for part in self._parts(stem))

    def tidy(self, stems: list[str]) -> None:
        """Delete parts that other sources left of files that are whole now."""
        for part in (part for stem in stems for part in self._parts(stem)):
            remove_tree(part)
            remove_tree(version_file(part))

    def _parts(self, stem: str) -> list[Path]:
        place = self.out / stem
        return sorted(place.parent.glob(f"{place.name}.jsonl*.part"))


def _check_record(file: Path, value: Any) -> None:
    """Refuse a record of another kind or version, or one that was damaged."""
    is_ours = isinstance(value, dict) and value.get("kind") == "ladderlm-pile"
    if not is_ours or value.get("format_version") != 1:
        raise DataError(
            f"{file} is not a record of Pile files that this version reads",
            "it would be overwritten",
            "choose another --out",
        )
    files = value.get("files")
    for name, entry in files.items() if isinstance(files, dict) else [("files", None)]:
        needed = {"source", "corpus", "note", "n_bytes", "sha256", "part"}
        if isinstance(entry, dict) and entry.get("part") == "head":
            needed |= {"limits", "head"}
        if not isinstance(entry, dict) or not needed <= entry.keys():
            raise DataError(
                f"{file}: the entry {name!r} is damaged",
                fix=f"restore {file.name}, or choose another --out",
            )
