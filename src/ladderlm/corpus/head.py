"""Take the head of a file of JSON lines: whole documents up to a limit.

Owns the cut. Compressed or plain bytes go in, in order and in pieces of any size; whole lines
come out, compressed again in frames of a few megabytes. The result depends on the bytes and the
limit alone, never on the pieces, so a head that was interrupted ends as the same bytes.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

from ladderlm.config import require
from ladderlm.corpus.decompress import is_zstd, zstd
from ladderlm.errors import DataError
from ladderlm.units import format_bytes

__all__ = ["Head", "HeadLimits"]

STEP_BYTES = 1 << 16  # input is taken in steps of this size, so that the range read is exact
FRAME_BYTES = 4 << 20  # of lines in one frame: frames can be read in parallel
DOCUMENT_BYTES = 6000  # of the Pile's documents, on average; only for estimates
MAX_LINE_BYTES = 256 << 20
FIRST_WINDOW_BYTES, MIN_WINDOW_BYTES, MAX_WINDOW_BYTES = 1 << 20, 1 << 18, 32 << 20
OTHER_SOURCE = "name another --source"
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.checksum_flag: 1,
}


@dataclass(frozen=True)
class HeadLimits:
    """How much of a file is wanted; the first limit that is reached applies.

    Args:
        max_bytes: UTF-8 bytes of the documents' texts, without the JSON around them.
        max_documents: lines.

    Raises:
        ConfigError: a limit is below one.
    """

    max_bytes: int | None = None
    max_documents: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("bytes", self.max_bytes), ("documents", self.max_documents)):
            require(f"--max-{name}", value, value is None or value >= 1, "be at least 1")

    def __bool__(self) -> bool:
        return self.max_bytes is not None or self.max_documents is not None

    @property
    def text_bytes(self) -> int:
        """Estimate of the bytes of text, at most."""
        sizes = [self.max_bytes, self.max_documents and self.max_documents * DOCUMENT_BYTES]
        return min((size for size in sizes if size is not None), default=0)

    def spell(self) -> str:
        """Return the limits in words."""
        words = []
        if self.max_bytes is not None:
            words.append(f"{format_bytes(self.max_bytes)} of text")
        if self.max_documents is not None:
            words.append(f"{self.max_documents:,} documents")
        return " or ".join(words)


class Head:
    """Cutter of a stream of bytes at the last whole document within limits.

    Args:
        sink: file for the compressed result.
        name: of the source, for messages.

    `is_full` is true once nothing more is needed; `n_input` counts the bytes that were read.
    """

    def __init__(self, limits: HeadLimits, sink: IO[bytes], name: str) -> None:
        self.limits, self.name = limits, name
        self.is_full = False
        self.n_input = self.n_documents = self.text_bytes = self.line_bytes = 0
        self._sink = sink
        self._digest = hashlib.sha256()
        self._waiting = bytearray()  # input short of a step
        self._line: list[bytes] = []  # pieces of a line that has not ended
        self._frame: list[bytes] = []
        self._line_size = self._frame_size = self._n_lines = 0
        self._decompressor: Any = None
        self._is_plain: bool | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the source; bytes after the limit are ignored.

        Raises:
            DataError: they are not zstd or not JSON lines; names the line.
        """
        self._waiting += data
        while len(self._waiting) >= STEP_BYTES and not self.is_full:
            step = bytes(self._waiting[:STEP_BYTES])
            del self._waiting[:STEP_BYTES]
            self._take(step)

    def finish(self, at_end: bool) -> dict[str, Any]:
        """Close the last frame and return the counts.

        Args:
            at_end: the source has no more bytes.

        Raises:
            DataError: the source ends in the middle of a frame, or no document fits the limits.
        """
        if at_end and self._waiting and not self.is_full:
            self._take(bytes(self._waiting))
        if at_end and not self.is_full:
            if self._decompressor is not None:
                raise DataError(
                    f"{self.name} ends after {self.n_input:,} bytes in the middle of a frame",
                    "the rest of its text would be missing from the data",
                    OTHER_SOURCE,
                )
            if self._line:
                self._end_line()
        if not self.n_documents and self.is_full:
            what = f"{self.name}: its first document is larger than --max-bytes "
            raise DataError(f"{what}{self.limits.max_bytes}", fix="set a larger --max-bytes")
        if not self.n_documents:
            raise DataError(f"{self.name} holds no documents", fix=OTHER_SOURCE)
        self._close_frame()
        return {
            "documents": self.n_documents,
            "text_bytes": self.text_bytes,
            "line_bytes": self.line_bytes,
            "source_byte_range": [0, self.n_input],
            "source_range_sha256": self._digest.hexdigest(),
            "whole_source": at_end and not self.is_full,
        }

    @property
    def share(self) -> float:
        """Share of the limit that is reached, 0 to 1."""
        if self.is_full:
            return 1.0
        by_bytes = self.text_bytes / (self.limits.max_bytes or float("inf"))
        return min(max(by_bytes, self.n_documents / (self.limits.max_documents or float("inf"))), 1)

    def window(self, done: int) -> int:
        """Estimate how many bytes of input are still needed after the first `done`."""
        if not self.share:
            return max(min(self.limits.text_bytes // 3, FIRST_WINDOW_BYTES), MIN_WINDOW_BYTES)
        needed = int(self.n_input * (1 / self.share - 1) * 1.02) + STEP_BYTES
        needed -= done - self.n_input
        # At most as much again: early on, blocks that have not ended spoil the estimate.
        most = min(max(done, FIRST_WINDOW_BYTES), MAX_WINDOW_BYTES)
        return max(min(needed, most), MIN_WINDOW_BYTES)

    def _take(self, step: bytes) -> None:
        self._digest.update(step)
        self.n_input += len(step)
        for piece in self._decompress(step):
            for i, part in enumerate(piece.split(b"\n")):
                if i:
                    self._end_line()
                    if self.is_full:
                        return
                if part:
                    self._line.append(part)
                    self._line_size += len(part)
            if self._line_size > MAX_LINE_BYTES:
                raise DataError(
                    f"{self.name}:{self._n_lines + 1}: a line of more than "
                    f"{MAX_LINE_BYTES >> 20} MiB",
                    "such a line is nearly always damage or an attack",
                    OTHER_SOURCE,
                )

    def _decompress(self, step: bytes) -> Iterator[bytes]:
        """Return the plain bytes of a step, at most a megabyte at a time."""
        if self._is_plain is None:
            self._is_plain = not is_zstd(step)
        if self._is_plain:
            yield step
            return
        try:
            while True:
                if self._decompressor is None:
                    if not step:
                        return
                    self._decompressor = zstd.ZstdDecompressor()
                yield self._decompressor.decompress(step, max_length=1 << 20)
                step = b""
                if self._decompressor.eof:
                    step, self._decompressor = self._decompressor.unused_data, None
                elif self._decompressor.needs_input:
                    return
        except zstd.ZstdError as error:
            raise DataError(
                f"{self.name}: damaged within its first {self.n_input:,} bytes: {error}",
                fix=OTHER_SOURCE,
            ) from error

    def _end_line(self) -> None:
        """Keep a line if it fits; the line that reaches or would pass a limit ends the head."""
        line = b"".join(self._line) + b"\n"
        self._line, self._line_size = [], 0
        self._n_lines += 1
        if not line.strip():
            return
        size = self._text_size(line)
        limits = self.limits
        if limits.max_bytes is not None and self.text_bytes + size > limits.max_bytes:
            self.is_full = True
            return
        self.n_documents += 1
        self.text_bytes += size
        self.line_bytes += len(line)
        self._frame.append(line)
        self._frame_size += len(line)
        if self._frame_size >= FRAME_BYTES:
            self._close_frame()
        self.is_full = self.n_documents == limits.max_documents

    def _text_size(self, line: bytes) -> int:
        """Count the UTF-8 bytes of a line's text; 0 for a record without one."""
        try:
            try:
                record = orjson.loads(line)
            except ValueError:  # orjson refuses lone surrogates
                record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.name}:{self._n_lines}: not valid JSON ({error})", fix=OTHER_SOURCE
            ) from error
        text = record.get("text") if isinstance(record, dict) else None
        return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0

    def _close_frame(self) -> None:
        if self._frame:
            self._sink.write(zstd.compress(b"".join(self._frame), options=_OPTIONS))
            self._frame, self._frame_size = [], 0
