"""Where the Pile can be fetched.

Owns the table of sources, the names of files, the published hashes, and the meaning of `--source`.
Requests nothing but lists of hashes.
"""

import http.client
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ladderlm.config import nearest, require
from ladderlm.corpus.hub import dataset_url
from ladderlm.corpus.web import PROBE_TIMEOUT_SECONDS, open_url
from ladderlm.errors import ConfigError, DataError

__all__ = [
    "ORIGINAL",
    "PACKED",
    "PLAIN",
    "PUBLISHED",
    "SOURCES",
    "PileSource",
    "Place",
    "file_stems",
    "places_for",
    "read_list",
]

N_SHARDS = 30
PACKED, PLAIN = ".jsonl.zst", ".jsonl"
ORIGINAL = "the Pile"
MAX_LIST_BYTES = 1 << 20
_log = logging.getLogger(__name__)

# SHA-256 of the files that were released with the paper.
# Source: EleutherAI's lm-evaluation-harness, task "pile", versions of 2021 and 2022.
PUBLISHED = {
    "val.jsonl.zst": "264c875d8bbd355d8daa9d032b75fd8fb91606218bb84dd1155b203fcd5fab92",
    "test.jsonl.zst": "0bb28c52d0b5596d389bf179ce2d43bf7f7ffae76b0d2d20b180c97f62e0975e",
}


@dataclass(frozen=True)
class PileSource:
    """A dataset of the Hugging Face hub with files of the Pile.

    Args:
        repository: owner and name.
        note: how it differs from the original.
        corpus: files of two corpora are never mixed in one split.
        has_list: whether it has a `SHA256SUMS.txt`.
    """

    repository: str
    splits: tuple[str, ...]
    note: str
    corpus: str = ORIGINAL
    suffix: str = PACKED
    has_list: bool = False


# In the order in which they are tried: the original bytes first, another corpus last. The
# original host went offline in August 2023.
SOURCES = {
    "pile-val-backup": PileSource(
        "mit-han-lab/pile-val-backup", ("val",), "the original val.jsonl.zst"
    ),
    "pile-full": PileSource(
        "xvjiarui/pile",
        ("train", "val", "test"),
        "the original files, all 22 subsets",
        has_list=True,
    ),
    "pile-val-test": PileSource(
        "EleutherAI/pile_val_test",
        ("val", "test"),
        "the original documents as plain JSON lines, so the file is not the original one",
        suffix=PLAIN,
    ),
    "pile-uncopyrighted": PileSource(
        "monology/pile-uncopyrighted",
        ("train", "val", "test"),
        "five of 22 subsets removed, so its val is another file than the original",
        corpus="Pile Uncopyrighted",
    ),
}


@dataclass(frozen=True)
class Place:
    """One place to look for files.

    Args:
        name: as recorded: a repository, a host, or "a folder".
        base: URL or folder with the files.
        corpus: see `PileSource`; None: not known.
        suffixes: endings to try in turn.
        note: origin of its files, as recorded.
        repository: of the hub, if it is one.
        has_list: whether to look for a `SHA256SUMS.txt`.
    """

    name: str
    base: str | Path
    corpus: str | None
    suffixes: tuple[str, ...]
    note: str
    repository: str | None = None
    has_list: bool = True

    def published(self, name: str, listed: dict[str, str]) -> tuple[str, str] | None:
        """Return the expected SHA-256 of a file and its source; None if it is not known.

        Args:
            listed: the place's own list, see `read_list`.
        """
        # Paths in a list may begin with more folders, or have none.
        below = [digest for path, digest in listed.items() if path.endswith("/" + name)]
        alone = below[0] if len(below) == 1 else listed.get(name.rpartition("/")[2])
        if digest := listed.get(name, alone):
            return digest, "SHA256SUMS.txt of the source"
        if self.corpus == ORIGINAL and name in PUBLISHED:
            return PUBLISHED[name], "the published hash of the original file"
        return None


def file_stems(split: str, shards: tuple[int, ...]) -> list[str]:
    """Return the paths of a split's files below a source, without their endings.

    Raises:
        ConfigError: no such split or shard.
    """
    require("--split", split, split in ("train", "val", "test"), "be one of train, val, test")
    if split != "train":
        return [split]
    are_known = shards and all(0 <= shard < N_SHARDS for shard in shards)
    require("--shards", list(shards), bool(are_known), f"be between 0 and {N_SHARDS - 1}")
    return [f"train/{shard:02d}" for shard in dict.fromkeys(shards)]


def places_for(split: str, source: str | None) -> list[Place]:
    """Return the places to try in turn.

    Args:
        source: a name of `SOURCES` or its repository, a URL, a folder, or None for all that
            have the split.

    Raises:
        ConfigError: no such source, or it lacks the split.
    """
    if source is None:
        return [_hub_place(known) for known in SOURCES.values() if split in known.splits]
    if source.startswith(("http://", "https://")):
        host = urlsplit(source).hostname or "a server"
        return [Place(host, source.rstrip("/"), None, (PACKED, PLAIN), "as named by --source")]
    if known := next((s for n, s in SOURCES.items() if source in (n, s.repository)), None):
        if split not in known.splits:
            what = f"--source {source} has no split {split}, only {', '.join(known.splits)}"
            raise ConfigError(what, fix="leave --source out to try the known sources in turn")
        return [_hub_place(known)]
    if Path(source).is_dir():
        note = "from a folder, as named by --source"
        return [Place("a folder", Path(source), None, (PACKED, PLAIN), note)]
    close = nearest(source, SOURCES)
    raise ConfigError(
        f"--source {source!r} is no known source ({', '.join(SOURCES)}), URL or folder",
        fix=f"use --source {close}" if close else "name a URL (https://...) or a folder",
    )


def _hub_place(known: PileSource) -> Place:
    name, suffixes = known.repository, (known.suffix,)
    base = dataset_url(name)
    return Place(name, base, known.corpus, suffixes, known.note, name, known.has_list)


def read_list(base: str | Path) -> dict[str, str]:
    """Return the hashes in `SHA256SUMS.txt` of a place by name; empty if there is none.

    Raises:
        DataError: a folder's list cannot be read.
    """
    if isinstance(base, Path):
        file = base / "SHA256SUMS.txt"
        try:
            return _parse_list(file.read_bytes()) if file.is_file() else {}
        except OSError as error:
            raise DataError(f"cannot read {file}: {error}", fix="check its permissions") from error
    try:
        with open_url(f"{base}/SHA256SUMS.txt", timeout=PROBE_TIMEOUT_SECONDS) as answer:
            return _parse_list(answer.read(MAX_LIST_BYTES))
    except (OSError, ValueError, http.client.HTTPException) as error:
        _log.info("%s/SHA256SUMS.txt: %s", base, error)
        return {}


def _parse_list(raw: bytes) -> dict[str, str]:
    """Parse lines of `HASH  NAME`, as sha256sum writes them; ignore other lines."""
    line_of_list = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(\S+)")
    lines = raw.decode("utf-8", "replace").splitlines()
    matches = [line_of_list.fullmatch(line.strip()) for line in lines]
    return {match[2]: match[1].lower() for match in matches if match}
