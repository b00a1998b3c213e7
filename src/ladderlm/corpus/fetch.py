"""Download a file so that it is whole or not there.

Owns the checks of a part before it gets its final name. How bytes travel is in `transfer.py`.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ladderlm.corpus.decompress import is_zstd
from ladderlm.corpus.transfer import Transfer, version_file
from ladderlm.corpus.web import UNKNOWN, Remote
from ladderlm.errors import DataError
from ladderlm.files import move_into_place, remove_tree, sha256_file

__all__ = ["Fetched", "accept", "download", "part_file"]


@dataclass(frozen=True)
class Fetched:
    """A file that arrived whole.

    Args:
        n_bytes, sha256: of the file on disk.
        verified: the checksum was known in advance.
        n_received: bytes that came over the network for it, this time.
    """

    path: Path
    n_bytes: int
    sha256: str
    verified: bool
    n_received: int = 0


def part_file(url: str, path: Path, kind: str = "") -> Path:
    """Return the path of a part; its name holds the URL's hash, so that sources never mix."""
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
            is deleted.
        progress: called with bytes so far and in all (None if the server does not say).
        back_off_seconds: pause after the first failure; doubles with each consecutive one.
        stop: ends the transfer when set.
        before_publishing: called with the verified file before it gets its name.

    Raises:
        DataError: the server has no such file, sends a page instead of it, or the bytes are
            wrong; names the URL and what to do.
        LadderError: the bytes cannot be written to disk.
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
    """Check a whole part and move it to its path.

    Raises:
        DataError: its hash is not the expected one, or its first bytes do not fit its name; the
            part is moved aside to `.bad`.
    """
    found = sha256_file(part)
    expected = "" if sha256 is None else f", expected {sha256[:16]}..."
    fault = _find_fault(part, path.name)
    if fault or (sha256 is not None and found != sha256):
        bad = path.with_name(path.name + ".bad")
        move_into_place(part, bad)
        raise DataError(
            f"{origin} {fault or 'has other bytes'}: SHA-256 {found[:16]}...{expected}",
            f"the bytes were moved aside to {bad}",
            "run the same command again, or name another --source",
        )
    fetched = Fetched(path, part.stat().st_size, found, sha256 is not None)
    before_publishing(fetched)
    move_into_place(part, path)
    return fetched


def _find_fault(part: Path, name: str) -> str | None:
    """Return how the first bytes of a file contradict its name, if they do."""
    with open(part, "rb") as stream:
        head = stream.read(512)
    if head.lstrip().startswith(b"<"):
        return "is a web page, not a file"
    return "is no zstd file" if name.endswith(".zst") and not is_zstd(head) else None
