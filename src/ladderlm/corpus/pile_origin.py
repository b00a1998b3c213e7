"""One file at one place: a URL, a file of a folder, or a file in the hub's cache.

Owns what is known about it in advance (length, hash, version) and how it is fetched, whole or its
head. The places to try, and their order, are decided in `pile.py`.
"""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
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
    """How files are fetched.

    Args:
        limits: of a head; without any the file is fetched whole.
        progress: called with name, bytes so far and in all (None: not known).
        back_off_seconds: pause after a failure; doubles with each consecutive one.
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
        name: path in the place.
        at: URL, or path of a file on this disk.
        sha256, says: expected hash and its source; None: not known.

    `remote` holds the facts that the server reports, once `ask` has been called; `n_received`
    counts bytes that came over the network.
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
        """Length, if it is known."""
        if isinstance(self.at, Path):
            return self.at.stat().st_size if self.at.is_file() else None
        return self.remote.n_bytes if self.remote else None

    def ask(self, silent_hosts: set[str]) -> None:
        """Ask the server for length, hash and version; add hosts that do not answer to a set."""
        if isinstance(self.at, Path) or self.remote or urlsplit(self.at).netloc in silent_hosts:
            return
        try:
            self.remote = ask_server(self.at)
        except (OSError, http.client.HTTPException):
            silent_hosts.add(urlsplit(self.at).netloc)
        except ValueError:  # not a URL: the transfer reports it
            return

    def take(
        self, path: Path, how: Taking, publish: Callable[[Fetched, dict[str, Any]], None]
    ) -> None:
        """Fetch the file, or its head, to a path.

        Args:
            publish: called with the finished file and the facts about it, before it gets its name.

        Raises:
            DataError: it is not there, or has other bytes than expected.
            LadderError: the bytes cannot be written to disk.
        """
        self._settle_hash()

        def publish_whole(file: Fetched) -> None:
            source = {"checksum_from": self.says} if file.verified else {}
            publish(file, {"part": "whole", "checksum_known_beforehand": file.verified, **source})

        if how.limits:
            self._take_head(path, how, publish)
        elif isinstance(self.at, Path):
            self._copy(self.at, path, how, publish_whole)
        else:
            fetched = download(
                self.at,
                path,
                replace(self.remote or UNKNOWN, sha256=self.sha256),
                lambda done, total: how.progress(self.name, done, total),
                how.back_off_seconds,
                how.stop,
                publish_whole,
            )
            self.n_received = fetched.n_received

    def _settle_hash(self) -> None:
        """Use the hub's own hash if there is no list; refuse the place if the two differ."""
        said = self.remote.sha256 if self.remote else None
        if said and self.sha256 is None:
            self.sha256, self.says = said, "the hub's listing"
        elif said and self.sha256 and self.sha256 != said:
            raise DataError(
                f"{self.at}: the hub says SHA-256 {said[:16]}..., {self.says} "
                f"{self.sha256[:16]}...",
                fix="name another --source",
            )

    def _copy(
        self, source: Path, path: Path, how: Taking, publish: Callable[[Fetched], None]
    ) -> None:
        """Copy a file of this disk; refuse one that changes meanwhile."""
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
        facts = {"part": "head", "limits": asdict(how.limits), "head": counts | whole}
        known = {"checksum_known_beforehand": False}
        accept(ready, path, str(self.at), None, lambda file: publish(file, facts | known))
        if not isinstance(self.at, Path):
            part = part_file(self.at, path, "head")
            remove_tree(part)
            remove_tree(version_file(part))

    def _feed(self, head: Head, path: Path, how: Taking) -> bool:
        """Feed as many bytes to the head as it needs; return whether those were all."""
        if isinstance(self.at, Path):
            # A damaged file in the hub's cache is not used, not even its head.
            if self.sha256 and self.place.repository and sha256_file(self.at) != self.sha256:
                raise DataError(f"{self.at} in the hub's cache is damaged")
            with _unchanged(self.at):
                _read_on(self.at, 0, head)
            return not head.is_full
        part = part_file(self.at, path, "head")
        n_fed = 0

        def enough(done: int) -> bool:
            nonlocal n_fed
            if done < n_fed:
                what = f"{self.at} changed while its head was fetched"
                raise _ChangedError(what, fix="run the same command again")
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


class _ChangedError(DataError):
    """The file at the server changed during the transfer."""


@contextlib.contextmanager
def _unchanged(source: Path) -> Iterator[None]:
    """Refuse a file that is missing, or that changes while the block reads it."""
    if not source.is_file():
        raise DataError(f"{source} does not exist")
    before = source.stat()
    yield
    after = source.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        what = f"{source} changed while it was read"
        raise DataError(what, fix="run the same command again when it is complete")


def _read_on(file: Path, start: int, head: Head) -> int:
    """Feed a file to a head from a position on; return the position reached."""
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
