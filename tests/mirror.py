"""A server of files on the loopback interface that misbehaves as told."""

import contextlib
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
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


class Mirror:
    """What is served, what goes wrong next, and what was asked for.

    Args:
        url: of its root.

    `files` maps paths to bytes, `script` holds the next answers (then all are good), `always` is
    the answer when the script is empty, `asked` lists (path, first byte or None).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.script: deque[Answer] = deque()
        self.always = Answer()
        self.asked: list[tuple[str, int | None]] = []
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
        answer = mirror.script.popleft() if mirror.script else mirror.always
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(match[1]) if match else None
        mirror.asked.append((self.path, start))
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            self._answer(answer, mirror, None if answer.ignores_range else start)

    def _answer(self, answer: Answer, mirror: Mirror, start: int | None) -> None:
        file = mirror.files.get(self.path)
        headers: dict[str, str] = {}
        if answer.status is not None or file is None:
            status, body = answer.status or 404, answer.body
        elif start is not None and start >= len(file):
            status, body = 416, b""
            headers["Content-Range"] = f"bytes */{len(file)}"
        elif start is not None:
            start += answer.shift
            status, body = 206, file[start:]
            if answer.announces_range:
                headers["Content-Range"] = f"bytes {start}-{len(file) - 1}/{len(file)}"
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
        self._send(answer, mirror, body)

    def _send(self, answer: Answer, mirror: Mirror, body: bytes) -> None:
        sent = body if answer.cut is None else body[: answer.cut]
        if answer.framing == "chunked":
            half = len(sent) // 2
            for piece in filter(None, (sent[:half], sent[half:])):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if answer.cut is None:
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(sent)
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
