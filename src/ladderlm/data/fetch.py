"""Download a file so that it is whole or not there.

Owns resumable HTTP downloads: bytes arrive in `.part`, are continued by Range after a cut, and
get their name only when length and checksum hold. Knows no corpus.
"""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ladderlm.errors import DataError
from ladderlm.files import (
    append_bytes,
    check_free_space,
    make_folder,
    move_into_place,
    remove_tree,
    sha256_file,
)

__all__ = ["Fetched", "download"]

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
MAX_TRIES = 8
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Fetched:
    """A file that arrived whole.

    Args:
        path: where it lies.
        url: where it came from.
        n_bytes, sha256: as it lies on disk.
        verified: True if the checksum was known beforehand.
    """

    path: Path
    url: str
    n_bytes: int
    sha256: str
    verified: bool


def download(
    url: str,
    path: Path,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    back_off_seconds: float = 1.0,
) -> Fetched:
    """Fetch a URL to a path, going on from an earlier `.part` if there is one.

    Args:
        sha256: expected digest; None: none is known, the one seen is given back.
        progress: told bytes so far and in all (None if the server does not say).
        back_off_seconds: pause after the first failure; doubles with each in a row.

    Raises:
        DataError: the server has no such file, sends a page instead of it, or the bytes are
            wrong; names the URL and what to do.
    """
    make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(url, part, progress):
                break
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing is left to send, or the part is too long
                if _total_of(error.headers.get("Content-Range")) == before:
                    break
                remove_tree(part)
            elif error.code not in _RETRIED:
                raise DataError(
                    f"{url}: the server answers {error.code} {error.reason}",
                    "the file is not there, or not for everyone",
                    "name another --source, or fetch the file by hand and put it in the folder",
                ) from error
            reason = f"the server answers {error.code}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures >= MAX_TRIES:
            raise DataError(
                f"{url}: {reason}, {MAX_TRIES} times in a row",
                f"{after:,} bytes are kept in {part}",
                "run the same command again later: it goes on from there",
            )
        time.sleep(back_off_seconds * 2 ** max(failures - 1, 0) if failures else 0.0)
    return _accept(url, part, path, sha256)


def _transfer(url: str, part: Path, progress: Callable[[int, int | None], None]) -> bool:
    """Append what the server sends to the part; True if the file is whole now."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "ladderlm"})
    request.add_header("Accept-Encoding", "identity")
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        if start and answer.status != 206:
            remove_tree(part)  # the server ignores Range and begins anew
            start = 0
        if not start and "text/html" in (answer.headers.get("Content-Type") or ""):
            raise DataError(
                f"{url} answers with a web page, not a file",
                "a mirror that is gone or asks for a login often does",
                "name another --source, or fetch the file by hand and put it in the folder",
            )
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        if total is not None:
            check_free_space(part.parent, total - start)
        done = start
        while piece := answer.read(CHUNK_BYTES):
            append_bytes(part, piece)
            done += len(piece)
            progress(done, total)
        return total is None or done == total


def _total_of(content_range: str | None) -> int | None:
    """Read the length from `bytes */12345`."""
    tail = (content_range or "").rpartition("/")[2]
    return int(tail) if tail.isdigit() else None


def _accept(url: str, part: Path, path: Path, sha256: str | None) -> Fetched:
    """Check the whole part and give it its name."""
    found = sha256_file(part)
    if sha256 is not None and found != sha256:
        bad = path.with_name(path.name + ".bad")
        move_into_place(part, bad)
        raise DataError(
            f"{url} has SHA-256 {found[:16]}..., expected {sha256[:16]}...",
            f"the bytes are not those of the known file; they are kept aside in {bad}",
            "run the same command again, or name another --source",
        )
    n_bytes = part.stat().st_size
    move_into_place(part, path)
    return Fetched(path, url, n_bytes, found, sha256 is not None)
