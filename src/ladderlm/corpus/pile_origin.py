"""One file at one place: a URL, a file of a folder, or a file in the hub's cache.

Owns what is known of it before it is taken (length, hash, version) and how it is taken, whole or
its head. Which places are tried, and in what order, is decided in `pile.py`.
"""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ladderlm.corpus.fetch import Fetched, accept, download, part_file
from ladderlm.corpus.head import Head, HeadLimits
from ladderlm.corpus.pile_sources import Place
from ladderlm.corpus.transfer import Transfer, keep_version, version_file
from ladderlm.corpus.web import UNKNOWN, Remote, ask_server
from ladderlm.errors import DataError, LadderError
from ladderlm.files import publish_stream, remove_tree, sha256_file

__all__ = ["Origin", "Taking"]

COPY_BYTES = 1 << 20
MAX_CHANGES = 3  # of a file at the server while its head is taken


@dataclass(frozen=True)
class Taking:
    """How files are taken.

    Args:
        limits: of a head; without any the file is taken whole.
        progress: told name, bytes so far and in all (None: not known).
        back_off_seconds: pause after a failure; doubles with each in a row.
        stop: ends every transfer when set.
    """

    limits: HeadLimits
    progress: Callable[[str, int, int | None], None]
    back_off_seconds: float
    stop: threading.Event


@dataclass
class Origin:
    """A file at a place.

    Args:
        place, name: where, and its path there.
        at: URL, or path of a file on this disk.
        sha256, says: expected hash and who says so; None: not known.

    `remote` holds what the server says, once `ask` has been called; `n_received` counts bytes that
    came over the network.
    """

    place: Place
    name: str
    at: str | Path
    sha256: str | None = None
    says: str | None = None
    remote: Remote | None = field(default=None, init=False)
    n_received: int = field(default=0, init=False)

    @property
    def n_bytes(self) -> int | None:
        """Length as far as it is known."""
        if isinstance(self.at, Path):
            return self.at.stat().st_size if self.at.is_file() else None
        return self.remote.n_bytes if self.remote else None

    def ask(self, silent_hosts: set[str]) -> None:
        """Ask the server for length, hash and version; hosts that do not answer are noted."""
        if isinstance(self.at, Path) or self.remote is not None:
            return
        host = urlsplit(self.at).netloc
        if host in silent_hosts:
            return
        try:
            self.remote = ask_server(self.at)
        except (OSError, http.client.HTTPException):
            silent_hosts.add(host)
        except ValueError:  # no URL: the transfer says so
            return

    def take(
        self, path: Path, how: Taking, publish: Callable[[Fetched, dict[str, Any]], None]
    ) -> None:
        """Bring the file, or its head, to a path.

        Args:
            publish: called with the finished file and what is known of it, before it gets its name.

        Raises:
            DataError: it is not there, or not what it should be.
            LadderError: the disk does not take it.
        """
        self._settle_hash()
        if how.limits:
            self._take_head(path, how, publish)
        elif isinstance(self.at, Path):
            self._copy(self.at, path, how, lambda file: publish(file, self._facts(file)))
        else:
            fetched = download(
                self.at,
                path,
                replace(self.remote or UNKNOWN, sha256=self.sha256),
                lambda done, total: how.progress(self.name, done, total),
                how.back_off_seconds,
                how.stop,
                lambda file: publish(file, self._facts(file)),
            )
            self.n_received = fetched.n_received

    def _settle_hash(self) -> None:
        """Take the hub's own hash if there is no list; two that differ refuse the place."""
        said = self.remote.sha256 if self.remote else None
        if said is None:
            return
        if self.sha256 is None:
            self.sha256, self.says = said, "the hub's listing"
        elif self.sha256 != said:
            raise DataError(
                f"{self.at}: the hub says SHA-256 {said[:16]}..., {self.says} "
                f"{self.sha256[:16]}...",
                "it is another file than the one known",
                "name another --source",
            )

    def _facts(self, file: Fetched) -> dict[str, Any]:
        return {"part": "whole", "checksum_known_beforehand": file.verified} | (
            {"checksum_from": self.says} if file.verified else {}
        )

    def _copy(
        self, source: Path, path: Path, how: Taking, publish: Callable[[Fetched], None]
    ) -> None:
        """Copy a file of this disk; one that changes meanwhile is refused."""
        with _unchanged(source):
            part = path.with_name(path.name + ".copy.part")
            total, done = source.stat().st_size, 0
            with open(source, "rb") as stream, publish_stream(part) as target:
                while piece := stream.read(min(COPY_BYTES, total - done)):
                    if how.stop.is_set():
                        raise LadderError("the copy was stopped")
                    target.write(piece)
                    done += len(piece)
                    how.progress(self.name, done, total)
        accept(part, path, str(source), self.sha256, publish)

    def _take_head(
        self, path: Path, how: Taking, publish: Callable[[Fetched, dict[str, Any]], None]
    ) -> None:
        ready = path.with_name(path.name + ".ready.part")
        for n_changes in range(MAX_CHANGES):
            try:
                with publish_stream(ready) as sink:
                    head = Head(how.limits, sink, str(self.at))
                    at_end = self._feed(head, path, how)
                    counts = head.finish(at_end)
                break
            except _ChangedError:
                if n_changes == MAX_CHANGES - 1:
                    raise
        whole = {"source_n_bytes": self.n_bytes, "source_sha256": self.sha256}
        facts = {"part": "head", "limits": how.limits.as_dict(), "head": counts | whole}
        accept(
            ready,
            path,
            str(self.at),
            None,
            lambda file: publish(file, {**facts, "checksum_known_beforehand": False}),
        )
        if not isinstance(self.at, Path):
            part = part_file(self.at, path, "head")
            remove_tree(part)
            remove_tree(version_file(part))

    def _feed(self, head: Head, path: Path, how: Taking) -> bool:
        """Return the head as many bytes as it needs; True if those were all."""
        if isinstance(self.at, Path):
            self._check_cached(self.at)
            with _unchanged(self.at):
                _read_on(self.at, 0, head)
            return not head.is_full
        part = part_file(self.at, path, "head")
        n_fed = 0

        def enough(done: int) -> bool:
            nonlocal n_fed
            if done < n_fed:
                raise _ChangedError(
                    f"{self.at} changed while its head was taken",
                    "a mixture of two files is neither",
                    "run the same command again",
                )
            n_fed = _read_on(part, n_fed, head)
            left = None if not head.share else max(done, int(head.n_input / head.share))
            how.progress(self.name, done, left)
            return head.is_full

        version = self.remote.version if self.remote else None
        keep_version(part, version)
        if enough(part.stat().st_size if part.exists() else 0):
            return False
        transfer = Transfer(
            self.at,
            part,
            has_checksum=False,
            progress=lambda done, total: None,
            back_off_seconds=how.back_off_seconds,
            stop=how.stop,
            window=head.window,
            enough=enough,
        )
        try:
            transfer.run(version)
        finally:
            self.n_received += transfer.n_received
        enough(part.stat().st_size)
        return not head.is_full

    def _check_cached(self, file: Path) -> None:
        """A damaged file in the hub's cache is not used, not even its head."""
        if self.sha256 and self.place.repository and sha256_file(file) != self.sha256:
            raise DataError(f"{file} in the hub's cache is damaged")


class _ChangedError(DataError):
    """The file at the server is not the one that was begun."""


@contextlib.contextmanager
def _unchanged(source: Path) -> Iterator[None]:
    """Refuse a file that is missing, or written to while the block reads it."""
    if not source.is_file():
        raise DataError(f"{source} does not exist")
    before = source.stat()
    yield
    after = source.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(
            f"{source} changed while it was read",
            "a mixture of two files is neither",
            "run the same command again when it is finished",
        )


def _read_on(file: Path, start: int, head: Head) -> int:
    """Feed a file to a head from a place on; return the place where it ended."""
    end = file.stat().st_size if file.exists() else 0
    if end <= start:
        return start
    with open(file, "rb") as stream:
        stream.seek(start)
        while start < end and not head.is_full:
            piece = stream.read(min(COPY_BYTES, end - start))
            head.feed(piece)
            start += len(piece)
    return start
