"""Download a file so that it is whole or not there.

Owns resumable HTTP downloads: bytes arrive in `.part`, are continued by Range after a cut, and
get their name only when length and checksum hold. Knows no corpus.
"""

import hashlib
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladderlm.errors import DataError, LadderError
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
MAX_WAIT_SECONDS = 120.0  # however long the server asks us to wait
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_OTHER_SOURCE = "name another --source, or fetch the file by hand and put it in the folder"
_log = logging.getLogger(__name__)


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
    """Fetch a URL to a path, going on from an earlier `.part` of the same URL if there is one.

    Args:
        sha256: expected digest; None: none is known, the one seen is given back.
        progress: told bytes so far and in all (None if the server does not say).
        back_off_seconds: pause after the first failure; doubles with each in a row.

    Raises:
        DataError: the server has no such file, sends a page instead of it, or the bytes are
            wrong; names the URL and what to do.
        LadderError: the disk does not take the bytes.
    """
    make_folder(path.parent)
    part = _part_of(url, path)
    failures = 0
    while True:
        before = _size(part)
        wait = 0.0
        try:
            if _transfer(url, part, progress, sha256 is not None):
                break
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and before:  # nothing is left to send, or the part is too long
                if _total_of(error.headers.get("Content-Range")) == before:
                    break
                remove_tree(part)
            elif error.code not in _RETRIED:
                raise DataError(
                    f"{url}: the server answers {error.code} {error.reason}",
                    "the file is not there, or not for everyone",
                    _OTHER_SOURCE,
                ) from error
            wait = _seconds(error.headers.get("Retry-After"))
            reason = f"the server answers {error.code}"
        except (ValueError, http.client.InvalidURL) as error:
            raise DataError(f"{url!r} is not a URL: {error}", "", "check its spelling") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if _size(part) > before else failures + 1
        if failures >= MAX_TRIES:
            raise DataError(
                f"{url}: {reason}, {MAX_TRIES} times in a row",
                f"{_size(part):,} bytes are kept in {part}",
                "run the same command again later: it goes on from there",
            )
        wait = max(wait, back_off_seconds * 2 ** (failures - 1) if failures else 0.0)
        _log.warning("%s: %s; going on in %.0f s", url, reason, wait)
        time.sleep(wait)
    return _accept(url, part, path, sha256)


def _part_of(url: str, path: Path) -> Path:
    """Name the part after its URL, so that bytes of two sources never meet in one file."""
    return path.with_name(f"{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _transfer(
    url: str, part: Path, progress: Callable[[int, int | None], None], has_checksum: bool
) -> bool:
    """Append what the server sends to the part; True if the file is whole now."""
    done = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "ladderlm"})
    request.add_header("Accept-Encoding", "identity")
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        _check_is_file(url, answer)
        if done and _first_byte(answer) != done:
            remove_tree(part)
            if answer.status == 206:
                raise http.client.HTTPException("the server sends other bytes than asked for")
            done = 0  # the server ignores Range and begins anew
        total = _total(answer, done)
        if total is None and not answer.chunked and not has_checksum:
            raise DataError(
                f"{url}: the server does not say how long the file is",
                "a connection that is cut would look like the end of the file",
                _OTHER_SOURCE,
            )
        check_free_space(part.parent, (total or done) - done)
        waiting = bytearray()
        try:
            while total is None or done < total:
                # read1 gives what has arrived; read would lose it when the connection breaks
                left = CHUNK_BYTES if total is None else min(CHUNK_BYTES, total - done)
                if not (piece := answer.read1(left)):
                    break
                waiting += piece
                done += len(piece)
                if len(waiting) >= CHUNK_BYTES:
                    _append(part, waiting)
                    progress(done, total)
        finally:
            _append(part, waiting)
        progress(done, total)
    if not done and total in (0, None):
        raise DataError(f"{url}: the file is empty", "a mirror that is broken", _OTHER_SOURCE)
    return total is None or done == total


def _append(part: Path, waiting: bytearray) -> None:
    """Move bytes from memory to the part; a full disk is no fault of the server."""
    try:
        if waiting:
            append_bytes(part, bytes(waiting))
    except OSError as error:
        raise LadderError(
            f"cannot write {part}: {error.strerror}",
            "what was written before is kept",
            "free some space or mend the permissions; the same command goes on from there",
        ) from error
    waiting.clear()


def _check_is_file(url: str, answer: Any) -> None:
    """Refuse an answer that is not the bytes of the file."""
    if "text/html" in (answer.headers.get("Content-Type") or ""):
        raise DataError(
            f"{url} answers with a web page, not a file",
            "a mirror that is gone or asks for a login often does",
            _OTHER_SOURCE,
        )
    encoding = answer.headers.get("Content-Encoding") or "identity"
    own = {"zstd": ".zst", "gzip": ".gz", "x-gzip": ".gz"}.get(encoding)  # named after its ending
    if encoding != "identity" and not (own and url.endswith(own)):
        raise DataError(
            f"{url}: the server sends it in Content-Encoding {encoding}, which was not asked for",
            "the bytes are not those of the file",
            _OTHER_SOURCE,
        )


def _first_byte(answer: Any) -> int | None:
    """Read where a partial answer begins: `bytes 100-199/200` gives 100."""
    head = (answer.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(head) if answer.status == 206 and head.isdigit() else None


def _total(answer: Any, done: int) -> int | None:
    """Give the length of the whole file, None if the server does not say."""
    total = _total_of(answer.headers.get("Content-Range"))
    length = answer.headers.get("Content-Length") or ""
    if answer.status != 206 or total is None:
        total = done + int(length) if length.isdigit() else None
    return total


def _total_of(content_range: str | None) -> int | None:
    """Read the length from `bytes */12345`."""
    tail = (content_range or "").rpartition("/")[2]
    return int(tail) if tail.isdigit() else None


def _seconds(retry_after: str | None) -> float:
    """Read how long the server asks us to wait; a date counts as not at all."""
    asked = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
    return min(asked, MAX_WAIT_SECONDS)


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
