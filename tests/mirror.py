"""A server of files on the loopback interface that misbehaves as told.

It answers HEAD, GET and Range; cuts, stalls, trickles, redirects, lies about lengths, and sends
any status, header or page instead of the file.
"""

import contextlib
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Answer", "Mirror", "serve"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one request is answered; the default is as it should be.

    Args:
        status: this one with `body` instead of the file.
        body: of an error or a page.
        headers: in addition, or instead.
        cut: send this many bytes of what is due, then close the connection.
        reset: close it the hard way.
        stall: after the cut stay silent instead of closing.
        framing: how the end is told: length, chunked or close.
        length: a false Content-Length.
        ignores_range: send the whole file from its start.
        shift: send from this many bytes beside the place asked for.
        announces_range: False: a partial answer that does not say which part it is.
        bytes_a_second: how fast it sends; None: at once.
    """

    status: int | None = None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    reset: bool = False
    stall: bool = False
    framing: str = "length"
    length: str | None = None
    ignores_range: bool = False
    shift: int = 0
    announces_range: bool = True
    bytes_a_second: int | None = None


class Mirror:
    """What is served, what goes wrong next, and what was asked for.

    Args:
        url: of its root.

    `files` maps paths to bytes, `script` holds the next answers to GET (then all are good),
    `always` is the answer when the script is empty, `at` the answer of single paths before both,
    `heads` that to HEAD (None: as to GET). `asked` lists (path, first byte or None), `ranges` the
    (first, last) byte of each, `probed` the paths of HEAD, `seen` the headers of all requests,
    `n_sent` counts bytes of bodies. Requests for `SHA256SUMS.txt` stand in `lists_asked` alone.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.script: deque[Answer] = deque()
        self.always = Answer()
        self.at: dict[str, Answer] = {}
        self.heads: Answer | None = None
        self.asked: list[tuple[str, int | None]] = []
        self.ranges: list[tuple[int | None, int | None]] = []
        self.lists_asked: list[str] = []
        self.probed: list[str] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.n_sent = 0
        self.closing = threading.Event()

    @property
    def starts(self) -> list[int | None]:
        """First byte asked for, request by request; None: the whole file."""
        return [start for _, start in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:  # the base class looks it up
        mirror: Mirror = self.server.mirror  # type: ignore[attr-defined]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(match[1]) if match else None
        last = int(match[2]) if match and match[2] else None
        if self.path.endswith("SHA256SUMS.txt"):
            mirror.lists_asked.append(self.path)
            answer = mirror.at.get(self.path, Answer())
        else:
            mirror.asked.append((self.path, start))
            mirror.ranges.append((start, last))
            scripted = mirror.script.popleft() if mirror.script else mirror.always
            answer = mirror.at.get(self.path, scripted)
        self._reply(answer, mirror, start, last)

    def do_HEAD(self) -> None:
        mirror: Mirror = self.server.mirror  # type: ignore[attr-defined]
        mirror.probed.append(self.path)
        answer = mirror.heads or mirror.at.get(self.path, mirror.always)
        self._reply(replace(answer, stall=False, cut=0), mirror, None, None)

    def _reply(self, answer: Answer, mirror: Mirror, start: int | None, last: int | None) -> None:
        mirror.seen.append((self.path, dict(self.headers)))
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            self._answer(answer, mirror, None if answer.ignores_range else start, last)

    def _answer(self, answer: Answer, mirror: Mirror, start: int | None, last: int | None) -> None:
        file = mirror.files.get(self.path)
        headers: dict[str, str] = {}
        if answer.status is not None or file is None:
            status, body = answer.status or 404, answer.body
        elif start is not None and start >= len(file):
            status, body = 416, b""
            headers["Content-Range"] = f"bytes */{len(file)}"
        elif start is not None:
            start += answer.shift
            end = len(file) if last is None else min(last + 1, len(file))
            status, body = 206, file[start:end]
            if answer.announces_range:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(file)}"
        else:
            status, body = 200, file
        if answer.framing == "length":
            headers["Content-Length"] = answer.length or str(len(body))
        elif answer.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        self.send_response(status)
        for name, value in {"Connection": "close", **headers, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send(answer, mirror, body)

    def _send(self, answer: Answer, mirror: Mirror, body: bytes) -> None:
        sent = body if answer.cut is None else body[: answer.cut]
        if answer.framing == "chunked":
            half = len(sent) // 2
            for piece in filter(None, (sent[:half], sent[half:])):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if answer.cut is None:
                self.wfile.write(b"0\r\n\r\n")
        elif answer.bytes_a_second:
            step = max(answer.bytes_a_second // 100, 1)
            for i in range(0, len(sent), step):
                self.wfile.write(sent[i : i + step])
                mirror.n_sent += len(sent[i : i + step])
                time.sleep(0.01)
        else:
            self.wfile.write(sent)
            mirror.n_sent += len(sent)
        self.wfile.flush()
        if answer.stall:
            mirror.closing.wait(30)
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing when a client goes away."""

    def shutdown_request(self, request: Any) -> None:
        """Close; a connection that was reset is closed already."""
        with contextlib.suppress(OSError):
            super().shutdown_request(request)


@contextlib.contextmanager
def serve() -> Iterator[Mirror]:
    """Run a mirror in a thread while the block lasts."""
    server = _Server(("127.0.0.1", 0), _Handler)
    mirror = Mirror(f"http://127.0.0.1:{server.server_port}")
    server.mirror = mirror  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        mirror.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
