"""Open a corpus file for reading, with any supported compression.

Owns the way from a path to a stream of plain bytes, and the words for files that end too early.
What a file is is decided by its first bytes, never by its name.
"""

import contextlib
import gzip
import io
import sys
from pathlib import Path
from typing import IO, Any

from ladderlm.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd as _zstd
else:
    from backports import zstd as _zstd

__all__ = ["open_plain", "read_head", "standard_input"]

_ZSTD_MAGIC, _GZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"


def open_plain(path: Path, name: str, opened: contextlib.ExitStack) -> IO[bytes]:
    """Open a file, decompressing by what its first bytes say it is.

    Args:
        path: the file; "-" is standard input.
        name: what errors call it.
        opened: closes the file and what decompresses it.

    Raises:
        DataError: a compressed file that is shorter than its header.
        EOFError, OSError, zlib.error: while the stream is read: cut short, or damaged.
    """
    stream = standard_input() if str(path) == "-" else opened.enter_context(path.open("rb"))
    return _decompress(stream, path, name, opened)


def standard_input() -> IO[bytes]:
    """Return standard input as bytes."""
    return sys.stdin.buffer


def read_head(path: Path, name: str, n_bytes: int) -> tuple[bytes, int]:
    """Return the first plain bytes of a file, and about how many bytes of the file they took.

    Args:
        n_bytes: how many to read at most.
    """
    step = 1 << 12  # small, so that little is taken from the file beyond what was asked for
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(path.open("rb", buffering=step))
        return _decompress(file, path, name, opened, step).read(n_bytes), file.tell()


def _decompress(
    stream: IO[bytes],
    path: Path,
    name: str,
    opened: contextlib.ExitStack,
    step: int = 1 << 17,
) -> IO[bytes]:
    head = stream.peek(4)[:4]  # type: ignore[attr-defined]
    if head == _ZSTD_MAGIC or 0x184D2A50 <= int.from_bytes(head, "little") <= 0x184D2A5F:
        return io.BufferedReader(_ZstdFrames(stream, step), 2 * step)
    if head[:2] == _GZIP_MAGIC:
        unzipped: IO[bytes] = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
        return opened.enter_context(unzipped)
    if path.suffix in (".zst", ".gz") and len(head) < 4 and _begins(head):
        short = "is empty" if not head else f"ends after {len(head)} bytes, inside its header"
        raise DataError(
            f"{name} {short}", "a compressed file has at least a header", "fetch it again"
        )
    return stream


def _begins(head: bytes) -> bool:
    return _ZSTD_MAGIC.startswith(head) or _GZIP_MAGIC.startswith(head)


class _ZstdFrames(io.RawIOBase):
    """The content of frames end to end.

    Args:
        stream: the compressed file.
        step: bytes of it that are read at a time.

    Raises (while reading):
        EOFError: the file ends inside a frame; says how many bytes were read.
        OSError: damaged, or something else stands behind a frame.
    """

    def __init__(self, stream: IO[bytes], step: int) -> None:
        self._stream, self._step, self._n_read = stream, step, 0
        self._data, self._frame = b"", _zstd.ZstdDecompressor()
        self._in_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with up to its length; 0 only at the end of the last frame."""
        while True:
            if not self._data and self._frame.needs_input:
                self._data = self._stream.read(self._step)
                self._n_read += len(self._data)
                if not self._data:
                    if self._in_frame:
                        raise EOFError(f"it ends inside a zstd frame, after {self._n_read} bytes")
                    return 0
            self._in_frame = True
            try:
                piece = self._frame.decompress(self._data, len(buffer))
            except _zstd.ZstdError as error:
                raise OSError(f"{error}, within the first {self._n_read} bytes") from error
            self._data = b""
            if self._frame.eof:
                self._data = self._frame.unused_data
                self._frame, self._in_frame = _zstd.ZstdDecompressor(), False
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
