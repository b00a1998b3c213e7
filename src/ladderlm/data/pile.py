"""Where the Pile can be had.

Owns the table of sources and `fetch_pile`. The files are taken as they are: `.jsonl.zst`, 30
training shards of about 14 GB, val and test of about 470 MB each.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ladderlm.config import nearest
from ladderlm.data.fetch import download
from ladderlm.errors import ConfigError, DataError
from ladderlm.files import FolderLock, publish_json, publish_stream, read_json, sha256_file

__all__ = ["SOURCES", "Source", "fetch_pile"]

N_SHARDS = 30


@dataclass(frozen=True)
class Source:
    """A place with files of the Pile.

    Args:
        repository: of the Hugging Face hub.
        splits: what it holds.
        note: how it differs from the original.
    """

    repository: str
    splits: tuple[str, ...]
    note: str


# In the order in which they are tried. The original host is gone since August 2023.
SOURCES = {
    "pile-val-backup": Source(
        "mit-han-lab/pile-val-backup", ("val",), "the original val.jsonl.zst"
    ),
    "pile-uncopyrighted": Source(
        "monology/pile-uncopyrighted",
        ("train", "val", "test"),
        "five of 22 subsets removed, so its val is another file than the original",
    ),
}


def file_names(split: str, shards: tuple[int, ...]) -> list[str]:
    """Give the paths of a split's files below a source.

    Raises:
        ConfigError: no such split or shard.
    """
    if split in ("val", "test"):
        return [f"{split}.jsonl.zst"]
    if split != "train":
        raise ConfigError(f"--split {split!r}", "it is one of train, val, test")
    wrong = [shard for shard in shards if not 0 <= shard < N_SHARDS]
    if wrong or not shards:
        raise ConfigError(f"--shards {list(shards)}", f"they lie between 0 and {N_SHARDS - 1}")
    return [f"train/{shard:02d}.jsonl.zst" for shard in shards]


def _bases(split: str, source: str | None) -> list[tuple[str, str]]:
    """List (base URL or folder, note) to try in turn."""
    if source is not None and (_is_url(source) or Path(source).is_dir()):
        return [(source.rstrip("/"), "as named by --source")]
    if source is not None and source not in SOURCES:
        close = nearest(source, SOURCES)
        raise ConfigError(
            f"--source {source!r} is no known source, URL or folder",
            f"known: {', '.join(SOURCES)}",
            f"did you mean {close}?" if close else "name a URL (https://...) or a folder",
        )
    if source is not None and split not in SOURCES[source].splits:
        raise ConfigError(
            f"--source {source} does not have the split {split}",
            f"it has {', '.join(SOURCES[source].splits)}",
            "leave --source out: the known sources are tried in turn",
        )
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        raise DataError(
            "HF_HUB_OFFLINE is set",
            "the known sources lie on the Hugging Face hub",
            "unset it, or name a folder with --source",
        )
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    chosen = [SOURCES[source]] if source else [s for s in SOURCES.values() if split in s.splits]
    return [(f"{endpoint}/datasets/{s.repository}/resolve/main", s.note) for s in chosen]


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def fetch_pile(
    out: Path,
    split: str,
    shards: tuple[int, ...] = (0,),
    source: str | None = None,
    progress: Callable[[str, int, int | None], None] = lambda name, done, total: None,
    back_off_seconds: float = 1.0,
) -> dict[str, Any]:
    """Fetch files of the Pile; give what `pile.json` says. What is there and good is kept.

    Args:
        out: folder; train shards go to `out/train/`.
        split: train, val or test.
        shards: of train, 0 to 29.
        source: a name of `SOURCES`, a URL or a folder laid out as `train/00.jsonl.zst`,
            `val.jsonl.zst`; None: the known sources in turn.
        progress: told file name, bytes so far and in all.

    Raises:
        ConfigError: no such split, shard or source.
        DataError: no source has the file; lists what each said, and what to do by hand.
    """
    names = file_names(split, shards)
    bases = _bases(split, source)
    with FolderLock(out):
        record_file = out / "pile.json"
        record: dict[str, Any] = {"kind": "ladderlm-pile", "format_version": 1, "files": {}}
        if record_file.is_file():
            record = read_json(record_file)
        for name in names:
            known = record["files"].get(name)
            if known and (out / name).is_file() and sha256_file(out / name) == known["sha256"]:
                continue
            record["files"][name] = _fetch_one(out / name, name, bases, progress, back_off_seconds)
            publish_json(record_file, record)
    return record


def _fetch_one(
    path: Path,
    name: str,
    bases: list[tuple[str, str]],
    progress: Callable[[str, int, int | None], None],
    back_off_seconds: float,
) -> dict[str, Any]:
    """Try each source for one file."""
    complaints = []
    for base, note in bases:
        try:
            if not _is_url(base):
                return _copy(Path(base) / name, path) | {"note": note}
            done = download(
                f"{base}/{name}",
                path,
                progress=lambda n, total: progress(name, n, total),
                back_off_seconds=back_off_seconds,
            )
            return {
                "host": urlsplit(done.url).hostname,
                "n_bytes": done.n_bytes,
                "sha256": done.sha256,
                "checksum_known_beforehand": done.verified,
                "note": note,
            }
        except DataError as error:
            complaints.append(error.what)
    raise DataError(
        f"no source has {name}",
        "; ".join(complaints),
        f"fetch the file by hand, put it at {path}, and go on with `ladderlm prepare`",
    )


def _copy(source: Path, path: Path) -> dict[str, Any]:
    if not source.is_file():
        raise DataError(f"{source} does not exist")
    with open(source, "rb") as stream, publish_stream(path) as target:
        while piece := stream.read(1 << 20):
            target.write(piece)
    return {
        "host": None,
        "n_bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "checksum_known_beforehand": False,
    }
