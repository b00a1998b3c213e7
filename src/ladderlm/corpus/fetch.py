"""Download a file so that it is whole or not there.

Owns the checks between a part that has arrived and the name it gets. How bytes travel is in
`transfer.py`; knows no corpus.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ladderlm.corpus.transfer import Transfer, version_file
from ladderlm.corpus.web import UNKNOWN, Remote
from ladderlm.errors import DataError
from ladderlm.files import move_into_place, remove_tree, sha256_file

__all__ = ["Fetched", "accept", "download", "part_file"]


@dataclass(frozen=True)
class Fetched:
    """A file that arrived whole.

    Args:
        path: where it lies.
        n_bytes, sha256: as it lies on disk.
        verified: True if the checksum was known beforehand.
        n_received: bytes that came over the network for it, this time.
    """

    path: Path
    n_bytes: int
    sha256: str
    verified: bool
    n_received: int = 0


def part_file(url: str, path: Path, kind: str = "") -> Path:
    """Name the part after its URL, so that bytes of two sources never meet in one file."""
    key = hashlib.sha256((url + kind).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return path.with_name(f"{path.name}.{key}.part")


def download(
    url: str,
    path: Path,
    known: Remote = UNKNOWN,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    back_off_seconds: float = 1.0,
    stop: threading.Event | None = None,
    before_publishing: Callable[[Fetched], None] = lambda fetched: None,
) -> Fetched:
    """Fetch a URL to a path, resuming from an earlier `.part` of the same URL if there is one.

    Args:
        known: expected SHA-256, and version of the file at the server: a part of another version
            is thrown away.
        progress: told bytes so far and in all (None if the server does not say).
        back_off_seconds: pause after the first failure; doubles with each in a row.
        stop: ends the transfer when set.
        before_publishing: called with the verified file before it gets its name.

    Raises:
        DataError: the server has no such file, sends a page instead of it, or the bytes are
            wrong; names the URL and what to do.
        LadderError: the disk does not take the bytes.
    """
    part = part_file(url, path)
    transfer = Transfer(
        url, part, known.sha256 is not None, progress, back_off_seconds, stop or threading.Event()
    )
    transfer.run(known.version)
    fetched = accept(part, path, url, known.sha256, before_publishing)
    remove_tree(version_file(part))
    return replace(fetched, n_received=transfer.n_received)


def accept(
    part: Path,
    path: Path,
    origin: str,
    sha256: str | None,
    before_publishing: Callable[[Fetched], None] = lambda fetched: None,
) -> Fetched:
    """Check a whole part and return it its name.

    Raises:
        DataError: its hash is not the one known, or it is plainly not what its name says; what
            came is kept aside under `.bad`.
    """
    found = sha256_file(part)
    known = "" if sha256 is None else f", expected {sha256[:16]}..."
    strange = _looks_like(part, path.name)
    if strange or (sha256 is not None and found != sha256):
        bad = path.with_name(path.name + ".bad")
        move_into_place(part, bad)
        raise DataError(
            f"{origin} {f'is {strange}' if strange else 'has other bytes'}: "
            f"SHA-256 {found[:16]}...{known}",
            f"the bytes are not those of the known file; they are kept aside in {bad}",
            "run the same command again, or name another --source",
        )
    fetched = Fetched(path, part.stat().st_size, found, sha256 is not None)
    before_publishing(fetched)
    move_into_place(part, path)
    return fetched


def _looks_like(part: Path, name: str) -> str | None:
    """Name what a file is if it plainly is not what its name says."""
    with open(part, "rb") as stream:
        head = stream.read(512)
    if head.lstrip().startswith(b"<"):
        return "a web page, not a file"
    is_frame = head[:4] == b"\x28\xb5\x2f\xfd" or head[1:4] == b"\x2a\x4d\x18"
    return "no zstd file" if name.endswith(".zst") and not is_frame else None
