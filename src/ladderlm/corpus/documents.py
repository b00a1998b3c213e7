"""Read documents from text corpora.

Owns the readers of `.jsonl`, `.jsonl.zst`, `.jsonl.gz`, `.txt` and standard input, and the errors
that name file and line. A file is read in blocks of whole lines, so that small records are cheap
and memory stays bounded.
"""

import contextlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from ladderlm.corpus.decompress import open_plain
from ladderlm.corpus.files import expand_sources
from ladderlm.errors import DataError

__all__ = [
    "BLOCK_BYTES",
    "Document",
    "Parsed",
    "Reader",
    "ReadingOptions",
    "RecordParser",
    "TextBlock",
    "read_blocks",
]

MAX_LINE_BYTES = 256 << 20
BLOCK_BYTES = 4 << 20
UNKNOWN_SUBSET = "unknown"
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How the records of a corpus are read."""

    text_key: str = "text"
    """Key of the text in a record of a .jsonl file. Dots lead into nested records."""
    subset_key: str = "meta.pile_set_name"
    """Key of the subset's name in a record. Dots lead into nested records."""
    skip_bad: bool = False
    """Skip and count records that cannot be read, instead of stopping at the first."""


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    Args:
        text: valid Unicode.
        subset: its name in the record, or "unknown".
        source: name of the file.
        line: number of its line, from 1; 0 for a whole file.
    """

    text: str
    subset: str
    source: str
    line: int


@dataclass(frozen=True)
class TextBlock:
    """Consecutive whole lines of one file, not parsed yet.

    Args:
        name: of the file, for errors.
        first_line: number of its first line, from 1; 0 for a text file, which is one document.
        raw: the bytes, including line ends.
    """

    name: str
    first_line: int
    raw: bytes


@dataclass
class Parsed:
    """The documents of a block, column by column, and the records that were skipped.

    Args:
        texts, subsets, lines: one entry per document.
        skipped: number of records skipped for each reason.
        examples: descriptions of the first few of them.
    """

    texts: list[str] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def read_blocks(path: Path, name: str, block_bytes: int = BLOCK_BYTES) -> Iterator[TextBlock]:
    """Cut a file into blocks of whole lines, the same ones each time it is read.

    Args:
        path, name: the file, and its name in errors.
        block_bytes: a block ends at the first line end past this size.

    Raises (while iterating):
        DataError: it is cut short or damaged, or a line is too long; names the place.
    """
    try:
        with contextlib.ExitStack() as opened:
            stream = open_plain(path, name, opened)
            if path.name.removesuffix(".zst").removesuffix(".gz").endswith(".txt"):
                raw = stream.read(MAX_LINE_BYTES + 1)
                if len(raw) > MAX_LINE_BYTES:
                    raise _too_long(name, 0)
                yield TextBlock(name, 0, raw)
            else:
                yield from _read_line_blocks(stream, name, block_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{name}: cannot be read to its end: {error}",
            "the rest of its text would be missing from the data",
            "fetch it again, or compare its checksum with the source's",
        ) from error


def _read_line_blocks(stream: IO[bytes], name: str, block_bytes: int) -> Iterator[TextBlock]:
    first_line = 1
    pending: list[bytes] = []
    n_pending = n_open = 0  # bytes held back; those of them past the last line end
    while piece := stream.read(_READ_BYTES):
        # The border must not depend on how much one read returns.
        cut = piece.find(b"\n", max(block_bytes - n_pending - 1, 0)) + 1
        while cut:
            block = TextBlock(name, first_line, b"".join([*pending, piece[:cut]]))
            yield block
            first_line += block.raw.count(b"\n")
            pending, n_pending, n_open, piece = [], 0, 0, piece[cut:]
            cut = piece.find(b"\n", block_bytes - 1) + 1
        pending.append(piece)
        n_pending += len(piece)
        last = piece.rfind(b"\n")
        n_open = n_open + len(piece) if last < 0 else len(piece) - last - 1
        if n_open > MAX_LINE_BYTES:
            raise _too_long(name, first_line + sum(part.count(b"\n") for part in pending))
    if n_pending:
        yield TextBlock(name, first_line, b"".join(pending))


class RecordParser:
    """Parser of blocks into documents."""

    def __init__(self, options: ReadingOptions) -> None:
        self.text_key = options.text_key.split(".")
        self.subset_key = options.subset_key.split(".")
        self.skip_bad = options.skip_bad

    def parse(self, block: TextBlock) -> Parsed:
        """Return the documents of a block.

        Raises:
            DataError: names file, line and column of the first bad record, and how to continue.
        """
        if block.first_line == 0:
            return self._parse_text(block)
        lines = block.raw.split(b"\n")
        if max(map(len, lines)) > MAX_LINE_BYTES:
            at = next(i for i, line in enumerate(lines) if len(line) > MAX_LINE_BYTES)
            raise _too_long(block.name, block.first_line + at)
        return self._parse_fast(block, lines) or self._parse_slowly(block, lines)

    def _parse_fast(self, block: TextBlock, lines: list[bytes]) -> Parsed | None:
        """Parse a block without any bad, blank or unusual line; None if there may be one."""
        if not lines[-1]:
            lines.pop()
        try:
            records: Sequence[Any] = list(map(orjson.loads, lines))
            texts, subsets = records, records
            for key in self.text_key:
                texts = [value[key] for value in texts]
            for key in self.subset_key:
                subsets = [value[key] for value in subsets]
        except (ValueError, LookupError, TypeError):
            return None
        types = {*map(type, texts), *map(type, subsets)}
        if types != {str} or not (all(texts) and all(subsets)):
            return None
        numbers = list(range(block.first_line, block.first_line + len(lines)))
        return Parsed(texts, subsets, numbers)  # type: ignore[arg-type]  # checked above

    def _parse_slowly(self, block: TextBlock, lines: list[bytes]) -> Parsed:
        parsed, begun = Parsed(), block.first_line > 1
        for number, raw in enumerate(lines, block.first_line):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            if not begun and raw.lstrip()[:1] == b"<":
                raise DataError(
                    f"{block.name} is an HTML or XML page, not JSON lines",
                    fix="fetch the file again from another source",
                )
            begun = True
            self._parse_line(raw + b"\n", block.name, number, parsed)
        return parsed

    def _parse_text(self, block: TextBlock) -> Parsed:
        parsed = Parsed()
        try:
            self._add(block.raw.decode("utf-8"), UNKNOWN_SUBSET, block.name, 0, parsed)
        except UnicodeDecodeError as error:
            self._skip("not UTF-8", f"{block.name}: byte {error.start} is not UTF-8", parsed)
        return parsed

    def _parse_line(self, raw: bytes, name: str, number: int, parsed: Parsed) -> None:
        place = f"{name}:{number}"
        try:
            record = _parse_json(raw)
        except UnicodeDecodeError as error:
            return self._skip("not UTF-8", f"{place}: byte {error.start} is not UTF-8", parsed)
        except (ValueError, RecursionError) as error:
            # The parser's own line is always 1, so only its column and its message are shown.
            column, words = getattr(error, "colno", 1), getattr(error, "msg", error)
            if number == 1 and not {".jsonl", ".json"} & set(Path(name).suffixes):
                words = f"{words}; as plain text only names in .txt are read"
            return self._skip("not JSON", f"{place}:{column}: not valid JSON ({words})", parsed)
        text, subset = _dig(record, self.text_key), _dig(record, self.subset_key)
        if not isinstance(text, str):
            found = "missing" if text is None else f"a {type(text).__name__}"
            what = f"{place}: {'.'.join(self.text_key)!r} is {found}, not a string"
            return self._skip("no text", what, parsed)
        subset = subset if isinstance(subset, str) and subset else UNKNOWN_SUBSET
        return self._add(text, subset, place, number, parsed)

    def _add(self, text: str, subset: str, place: str, number: int, parsed: Parsed) -> None:
        if not text:
            return self._skip("empty text", f"{place}: the text is empty", parsed)
        try:
            f"{text}{subset}".encode()
        except UnicodeEncodeError:
            return self._skip("lone surrogate", f"{place}: it holds a lone surrogate", parsed)
        parsed.texts.append(text)
        parsed.subsets.append(subset)
        parsed.lines.append(number)
        return None

    def _skip(self, reason: str, what: str, parsed: Parsed) -> None:
        # An empty text has nothing to train on or to score, so it is never an error.
        if reason != "empty text" and not self.skip_bad:
            fix = "fix the line, or use --skip-bad to skip and count such records"
            raise DataError(what, fix=fix)
        parsed.skipped[reason] += 1
        if len(parsed.examples) < 20:
            parsed.examples.append(what)


class Reader:
    """Iterator over the documents of files, in order, with bounded memory.

    Args:
        sources: files or folders, see `expand_sources`.

    `skipped` counts skipped records by reason.

    Raises (while iterating):
        DataError: names file, line and column, and how to continue.
    """

    def __init__(
        self, sources: Iterable[str | Path], options: ReadingOptions | None = None
    ) -> None:
        self.files = expand_sources(sources)
        self.parser = RecordParser(options or ReadingOptions())
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Document]:
        for path in self.files:
            name = "<stdin>" if str(path) == "-" else str(path)
            for block in read_blocks(path, name):
                parsed = self.parser.parse(block)
                self.skipped += parsed.skipped
                columns = zip(parsed.texts, parsed.subsets, parsed.lines, strict=True)
                for text, subset, line in columns:
                    yield Document(text, subset, name, line)


def _parse_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        # Lone surrogates and huge numbers are JSON, and `json` has the better messages. Decoded
        # first: given bytes, `json` guesses at UTF-16 and accepts surrogates.
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
        "it does not fit in bounded memory; such a line is nearly always damage or an attack",
        "remove the line",
    )
