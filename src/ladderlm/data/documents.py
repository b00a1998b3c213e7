"""Read documents from text corpora.

Owns the readers of `.jsonl`, `.jsonl.zst`, `.jsonl.gz`, `.txt`, folders of those and standard
input, and the errors that name file and line. What a file is is decided by its first bytes.
"""

import contextlib
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ladderlm.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd as _zstd
else:
    from backports import zstd as _zstd

__all__ = ["Document", "Reader", "expand_sources"]

MAX_LINE_BYTES = 256 << 20
UNKNOWN_SUBSET = "unknown"
_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".txt", ".txt.zst", ".txt.gz")
_ZSTD_MAGIC, _GZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    Args:
        text: valid Unicode.
        subset: `meta.pile_set_name`, or "unknown".
        source: name of the file it came from.
        line: its line there, from 1; 0 for a whole file.
    """

    text: str
    subset: str
    source: str
    line: int


def expand_sources(sources: Iterable[str | Path]) -> list[Path]:
    """Replace folders by the corpus files in them, sorted by name; "-" is standard input.

    Raises:
        DataError: a source does not exist, or a folder holds no corpus file.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = sorted(
                p for p in source.rglob("*") if p.is_file() and p.name.endswith(_SUFFIXES)
            )
            if not inside:
                raise DataError(
                    f"folder {source} holds no corpus file",
                    f"files ending in {', '.join(_SUFFIXES)} are read",
                    "name the files, or another folder",
                )
            files += inside
        elif source.exists() or str(source) == "-":
            files.append(source)
        else:
            raise DataError(f"source {source} does not exist", "", "check the path")
    return files


class Reader:
    """Iterate over the documents of some files, in order, with bounded memory.

    Args:
        sources: files or folders, see `expand_sources`.
        text_key, subset_key: dotted places in a record.
        skip_bad: count and pass over bad records instead of stopping at the first.

    `skipped` counts the reasons of what was passed over.

    Raises (while iterating):
        DataError: names file, line and column, and how to go on.
    """

    def __init__(
        self,
        sources: Iterable[str | Path],
        *,
        text_key: str = "text",
        subset_key: str = "meta.pile_set_name",
        skip_bad: bool = False,
    ) -> None:
        self.files = expand_sources(sources)
        self.text_key, self.subset_key = text_key.split("."), subset_key.split(".")
        self.skip_bad = skip_bad
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Document]:
        for path in self.files:
            yield from self._read_file(path)

    def _read_file(self, path: Path) -> Iterator[Document]:
        name = "<stdin>" if str(path) == "-" else str(path)
        try:
            with contextlib.ExitStack() as opened:
                stream = _open_plain(path, name, opened)
                if path.name.removesuffix(".zst").removesuffix(".gz").endswith(".txt"):
                    yield from self._read_text(stream, name)
                else:
                    yield from self._read_lines(stream, name)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{name}: cannot be read to its end: {error}",
                "a file that is cut short or damaged would silently give less data",
                "fetch it again, or compare its checksum with the source's",
            ) from error

    def _read_text(self, stream: IO[bytes], name: str) -> Iterator[Document]:
        raw = stream.read(MAX_LINE_BYTES + 1)
        if len(raw) > MAX_LINE_BYTES:
            raise _too_long(name, 0)
        if not raw:
            self._bad("empty text", f"{name}: the text is empty")
            return
        try:
            yield Document(raw.decode("utf-8"), UNKNOWN_SUBSET, name, 0)
        except UnicodeDecodeError as error:
            self._bad("not UTF-8", f"{name}: byte {error.start} is not UTF-8")

    def _read_lines(self, stream: IO[bytes], name: str) -> Iterator[Document]:
        number, begun = 0, False
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise _too_long(name, number)
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            if not begun and raw.lstrip()[:1] == b"<":
                raise DataError(
                    f"{name} is an HTML or XML page, not JSON lines",
                    "a mirror that is gone often answers with such a page",
                    "fetch the file again from another source",
                )
            begun = True
            document = self._parse(raw, name, number)
            if document is not None:
                yield document

    def _parse(self, raw: bytes, name: str, number: int) -> Document | None:
        place = f"{name}:{number}"
        try:
            record = _loads(raw)
        except UnicodeDecodeError as error:
            self._bad("not UTF-8", f"{place}: byte {error.start} is not UTF-8")
            return None
        except (ValueError, RecursionError) as error:
            # The parser's own line is always 1, so only its column and its words are shown.
            column, words = getattr(error, "colno", 1), getattr(error, "msg", error)
            self._bad("not JSON", f"{place}:{column}: not valid JSON ({words})")
            return None
        text = _dig(record, self.text_key)
        if not isinstance(text, str):
            found = "missing" if text is None else f"a {type(text).__name__}"
            self._bad("no text", f"{place}: {'.'.join(self.text_key)!r} is {found}, not a string")
            return None
        if not text:
            self._bad("empty text", f"{place}: the text is empty")
            return None
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                self._bad("lone surrogate", f"{place}: the text holds a lone surrogate")
                return None
        subset = _dig(record, self.subset_key)
        known = isinstance(subset, str) and subset
        return Document(text, subset if known else UNKNOWN_SUBSET, name, number)

    def _bad(self, reason: str, what: str) -> None:
        if reason == "empty text":
            self.skipped[reason] += 1  # nothing to train on and nothing to score: never an error
        elif self.skip_bad:
            self.skipped[reason] += 1
        else:
            raise DataError(
                what,
                "a corpus that loses records in silence is another corpus",
                "mend the line, or use --skip-bad to leave such records out and have them counted",
            )


def _loads(raw: bytes) -> Any:
    """Parse one line by orjson where it is installed, else by the standard library."""
    try:
        import orjson
    except ImportError:
        return _loads_slowly(raw)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _loads_slowly(raw)  # lone surrogates and huge numbers are JSON; a better message


def _loads_slowly(raw: bytes) -> Any:
    # Decoded first: given bytes, `json` guesses at UTF-16 and lets surrogates through.
    return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _dig(record: Any, keys: list[str]) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _too_long(name: str, number: int) -> DataError:
    return DataError(
        f"{name}:{number}: a line of more than {MAX_LINE_BYTES >> 20} MiB",
        "it would not fit in bounded memory; such a line is nearly always damage or an attack",
        "remove the line",
    )


def _open_plain(path: Path, name: str, opened: contextlib.ExitStack) -> IO[bytes]:
    """Open a file for reading, decompressing by what its first bytes say it is.

    Args:
        opened: closes the file and what decompresses it.
    """
    stream: IO[bytes]
    if str(path) == "-":
        stream = (
            io.BufferedReader(sys.stdin.buffer.raw)
            if hasattr(sys.stdin.buffer, "raw")
            else sys.stdin.buffer
        )
    else:
        stream = opened.enter_context(path.open("rb"))
    head = stream.peek(4)[:4]  # type: ignore[attr-defined,union-attr]
    if head == _ZSTD_MAGIC or 0x184D2A50 <= int.from_bytes(head, "little") <= 0x184D2A5F:
        return opened.enter_context(_open_zstd(stream))
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


def _open_zstd(stream: IO[bytes]) -> IO[bytes]:
    """Read all frames of a zstd file, one after another."""
    return io.BufferedReader(_ZstdFrames(stream), 1 << 20)


class _ZstdFrames(io.RawIOBase):
    """The content of frames end to end.

    Raises (while reading):
        EOFError: the file ends inside a frame; says how many bytes were read.
        OSError: damaged, or something else stands behind a frame.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._n_read = stream, 0
        self._data, self._frame = b"", _zstd.ZstdDecompressor()
        self._in_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with up to its length; 0 only at the end of the last frame."""
        while True:
            if not self._data and self._frame.needs_input:
                self._data = self._stream.read(1 << 17)
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
