"""Download from a web server to a file, resuming after any interruption.

Owns Range requests, retries with growing pauses, and the rule that bytes that arrived are kept.
Whether the file is the right one is checked in `fetch.py`.
"""

import http.client
import logging
import threading
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ladderlm.corpus.web import open_url, total_of
from ladderlm.errors import DataError, LadderError
from ladderlm.files import append_bytes, check_free_space, make_folder, publish_text, remove_tree

__all__ = ["Transfer", "keep_version", "version_file"]

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
MAX_TRIES = 8
MAX_FIRST_TRIES = 4  # for a server that has never answered: it may be gone
MAX_WAIT_SECONDS = 120.0  # even if the server asks us to wait longer
OTHER_SOURCE = "name another --source, or fetch the file by hand and put it in the folder"
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_log = logging.getLogger(__name__)


@dataclass
class Transfer:
    """A transfer of bytes from a URL to the end of a part.

    Args:
        has_checksum: a hash will show whether the file is complete, not only its length.
        progress: called with bytes so far and in all (None if the server does not say).
        back_off_seconds: pause after the first failure; doubles with each consecutive one.
        stop: ends the transfer when set.
        window: number of bytes to request, given how many are there; None: all that follow.
        enough: called with the number of bytes that are there; True ends the transfer.

    `n_received` counts bytes that came over the network, `total` is the length of the whole file.
    """

    url: str
    part: Path
    has_checksum: bool
    progress: Callable[[int, int | None], None]
    back_off_seconds: float
    stop: threading.Event
    window: Callable[[int], int | None] = lambda done: None
    enough: Callable[[int], bool] = lambda done: False
    n_received: int = field(default=0, init=False)
    total: int | None = field(default=None, init=False)
    _has_answered: bool = field(default=False, init=False)

    def run(self, version: str | None = None) -> None:
        """Receive until the file is whole or `enough` of it has arrived.

        Raises:
            DataError, LadderError: see `download`.
        """
        make_folder(self.part.parent)
        keep_version(self.part, version)
        failures, most = 0, _size(self.part)
        cause: Exception
        while True:
            self._check_stop()
            before, wait = _size(self.part), 0.0
            try:
                if self._receive():
                    return
                continue  # the window is full, the next one follows
            except urllib.error.HTTPError as error:
                self._has_answered = True
                error.close()
                if error.code == 416 and before:  # nothing is left, or the part is too long
                    self.total = total_of(error.headers.get("Content-Range"))
                    if self.total == before:
                        return
                    remove_tree(self.part)
                elif error.code not in _RETRIED:
                    what = f"{self.url}: the server answers {error.code} {error.reason}"
                    raise DataError(what, fix=OTHER_SOURCE) from error
                asked = error.headers.get("Retry-After") or ""  # a date counts as no wait
                wait = min(float(asked) if asked.isdigit() else 0.0, MAX_WAIT_SECONDS)
                cause, reason = error, f"the server answers {error.code}"
            except (ValueError, http.client.InvalidURL) as error:
                what = f"{self.url!r} is not a URL: {error}"
                raise DataError(what, fix="check its spelling") from error
            except (OSError, http.client.HTTPException) as error:
                cause, reason = error, str(getattr(error, "reason", error)) or type(error).__name__
            # A server may force a restart: only more bytes than ever before are progress.
            failures = 0 if _size(self.part) > most else failures + 1
            most = max(most, _size(self.part))
            limit = MAX_TRIES if self._has_answered else MAX_FIRST_TRIES
            if failures >= limit:
                kept = _size(self.part)
                raise DataError(
                    f"{self.url}: {reason}, {limit} times in a row",
                    f"{kept:,} bytes are kept in {self.part}" if kept else "no byte has arrived",
                    "run the same command again later: it resumes from there",
                ) from cause
            wait = max(wait, self.back_off_seconds * 2 ** (failures - 1) if failures else 0.0)
            _log.warning("%s: %s; retrying in %.0f s", self.url, reason, wait)
            _pause(self.stop, wait)

    def _receive(self) -> bool:
        """Send one request and append its answer; False if the window ended before the file."""
        done = _size(self.part)
        window = self.window(done)
        headers = {}
        if done or window is not None:
            last = "" if window is None else str(done + window - 1)
            headers["Range"] = f"bytes={done}-{last}"
        with open_url(self.url, headers, timeout=TIMEOUT_SECONDS) as answer:
            self._has_answered = True
            _check_is_file(self.url, answer)
            is_partial = answer.status == 206
            length, total = _int(answer.headers.get("Content-Length")), None
            start = done if is_partial else 0
            if is_partial:
                content_range = answer.headers.get("Content-Range") or ""
                first = content_range.removeprefix("bytes ").partition("-")[0]
                if _int(first) != done:
                    self._restart("the server sends other bytes than requested")
                total = total_of(content_range)
            if total is None and length is not None and (window is None or not is_partial):
                total = start + length
            before, self.total = self.total, total
            if None not in (before, total) and before != total:
                self._restart("the file at the server has changed")
            end = total if length is None else start + length
            is_blind = end is None and not answer.chunked and not self.has_checksum
            if is_blind or (is_partial and total is None):
                raise DataError(
                    f"{self.url}: the server does not say how long the file is",
                    "a connection that is cut would look like the end of the file",
                    OTHER_SOURCE,
                )
            if window is None:
                check_free_space(self.part.parent, (end or done) - done)
            if done and not is_partial:
                self._pass_over(answer, done)  # the server ignores Range and starts over
            if self._append(answer, done, end):
                return True
        done = _size(self.part)
        if not done and not self.total:
            raise DataError(f"{self.url}: the file is empty", fix=OTHER_SOURCE)
        if end is not None and done < end:
            raise http.client.HTTPException("the connection was cut")
        # Without a length, a chunked answer or a checksum shows that this is the end.
        return self.total is None or done >= self.total

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise LadderError("the transfer was stopped")

    def _append(self, answer: Any, done: int, end: int | None) -> bool:
        """Append what arrives to the part; return whether it is enough."""
        waiting = bytearray()
        try:
            while end is None or done < end:
                self._check_stop()
                # read1 returns what has arrived; read would lose it when the connection breaks
                left = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - done)
                if not (piece := answer.read1(left)):
                    break
                waiting += piece
                done += len(piece)
                self.n_received += len(piece)
                if len(waiting) >= CHUNK_BYTES:
                    _flush(self.part, waiting)
                    self.progress(done, self.total)
                    if self.enough(done):
                        return True
        finally:
            _flush(self.part, waiting)
        self.progress(done, self.total)
        return self.enough(done)

    def _restart(self, reason: str) -> NoReturn:
        remove_tree(self.part)
        raise http.client.HTTPException(reason)

    def _pass_over(self, answer: Any, done: int) -> None:
        """Read the bytes that are there already; delete the part if they differ."""
        with open(self.part, "rb") as old:
            while done and (piece := answer.read1(min(CHUNK_BYTES, done))):
                self.n_received += len(piece)
                done -= len(piece)
                if piece != old.read(len(piece)):
                    self._restart("the file at the server has changed")
        if done:
            raise http.client.HTTPException("the connection was cut")


def version_file(part: Path) -> Path:
    """Return the path of the note of the version of a file that a part was begun from."""
    return part.with_name(part.name + ".version")


def keep_version(part: Path, version: str | None) -> None:
    """Delete a part that was begun from another version of the file, and note this version."""
    if version is None:
        return
    note = version_file(part)
    if note.is_file() and note.read_text(encoding="utf-8") != version and part.exists():
        _log.warning("%s: the file on the server has changed; starting over", part)
        remove_tree(part)
    publish_text(note, version)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _pause(stop: threading.Event, seconds: float) -> None:
    stop.wait(seconds)


def _flush(part: Path, waiting: bytearray) -> None:
    """Move bytes from memory to the part; a full disk is not retried."""
    try:
        if waiting:
            append_bytes(part, bytes(waiting))
    except OSError as error:
        raise LadderError(
            f"cannot write {part}: {error.strerror}",
            fix="free some space or fix the permissions; then the same command resumes from there",
        ) from error
    waiting.clear()


def _check_is_file(url: str, answer: Any) -> None:
    """Refuse an answer that is not the bytes of the file."""
    if "text/html" in (answer.headers.get("Content-Type") or ""):
        raise DataError(f"{url} answers with a web page, not a file", fix=OTHER_SOURCE)
    encoding = answer.headers.get("Content-Encoding") or "identity"
    own = {"zstd": ".zst", "gzip": ".gz", "x-gzip": ".gz"}.get(encoding)  # named after its ending
    if encoding != "identity" and not (own and url.endswith(own)):
        what = f"{url}: the server sends it in Content-Encoding {encoding}, which was not requested"
        raise DataError(what, fix=OTHER_SOURCE)


def _int(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
