"""Open a corpus file for reading, with any supported compression.

Owns the way from a path to a stream of plain bytes, and the errors for files that end too early.
File types are detected from their first bytes, never from their names.
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

__all__ = ["is_zstd", "open_plain", "read_head", "zstd"]

zstd = _zstd
_ZSTD_MAGIC, _GZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"


def is_zstd(head: bytes) -> bool:
    """Return whether a file with these first bytes begins with a zstd frame, skippable ones too."""
    return head[:4] == _ZSTD_MAGIC or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5)


def open_plain(path: Path, name: str, opened: contextlib.ExitStack) -> IO[bytes]:
    """Open a file, decompressing it if its first bytes are those of zstd or gzip.

    Args:
        path: the file; "-" is standard input.
        name: of the file in errors.
        opened: closes the file and its decompressor.

    Raises:
        DataError: a compressed file is shorter than its header.
        EOFError, OSError, zlib.error: while the stream is read, if it is cut short or damaged.
    """
    stream = sys.stdin.buffer if str(path) == "-" else opened.enter_context(path.open("rb"))
    return _decompress(stream, path, name, opened)


def read_head(path: Path, name: str, n_bytes: int) -> tuple[bytes, int]:
    """Return at most `n_bytes` plain bytes of a file, and about how many bytes of it they took."""
    step = 1 << 12  # small, so that little more of the file is read than needed
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(path.open("rb", buffering=step))
        return _decompress(file, path, name, opened, step).read(n_bytes), file.tell()


def _decompress(
    stream: IO[bytes], path: Path, name: str, opened: contextlib.ExitStack, step: int = 1 << 17
) -> IO[bytes]:
    head = stream.peek(4)[:4]  # type: ignore[attr-defined]
    if is_zstd(head):
        return io.BufferedReader(_ZstdFrames(stream, step), 2 * step)
    if head[:2] == _GZIP_MAGIC:
        unzipped: IO[bytes] = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
        return opened.enter_context(unzipped)
    is_cut = any(magic.startswith(head) for magic in (_ZSTD_MAGIC, _GZIP_MAGIC))
    if path.suffix in (".zst", ".gz") and len(head) < 4 and is_cut:
        short = f"ends after {len(head)} bytes, inside its header" if head else "is empty"
        raise DataError(f"{name} {short}", fix="fetch it again")
    return stream


class _ZstdFrames(io.RawIOBase):
    """The content of consecutive zstd frames.

    Args:
        stream: the compressed file.
        step: number of its bytes to read at a time.

    Raises (while reading):
        EOFError: the file ends inside a frame; names how many bytes were read.
        OSError: it is damaged, or something else follows a frame.
    """

    def __init__(self, stream: IO[bytes], step: int) -> None:
        self._stream, self._step, self._n_read = stream, step, 0
        self._data, self._frame, self._in_frame = b"", zstd.ZstdDecompressor(), False

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
            except zstd.ZstdError as error:
                raise OSError(f"{error}, within the first {self._n_read} bytes") from error
            self._data = b""
            if self._frame.eof:
                self._data = self._frame.unused_data
                self._frame, self._in_frame = zstd.ZstdDecompressor(), False
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
