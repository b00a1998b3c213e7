"""Read documents from text corpora.

Owns the readers of `.jsonl`, `.jsonl.zst`, `.jsonl.gz`, `.txt` and standard input, and the errors
that name file and line. A file is read in blocks of whole lines, so that millions of small records
cost little each and memory stays bounded.
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

from ladderlm.corpus.corpus_files import expand_sources
from ladderlm.corpus.decompress import open_plain
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
        subset: `meta.pile_set_name`, or "unknown".
        source: name of the file it came from.
        line: its line there, from 1; 0 for a whole file.
    """

    text: str
    subset: str
    source: str
    line: int


@dataclass(frozen=True)
class TextBlock:
    """A run of whole lines of one file, not parsed yet.

    Args:
        name: the file, for errors.
        first_line: number of its first line, from 1; 0 for a text file, which is one document.
        raw: the bytes, line ends in.
    """

    name: str
    first_line: int
    raw: bytes


@dataclass
class Parsed:
    """The documents of a block, column by column, and what was left out.

    Args:
        texts, subsets, lines: one entry per document.
        skipped: reason -> how many records were left out.
        examples: the first few of them in words.
    """

    texts: list[str] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def read_blocks(path: Path, name: str, block_bytes: int = BLOCK_BYTES) -> Iterator[TextBlock]:
    """Cut a file into blocks of whole lines, the same ones whenever it is read.

    Args:
        path, name: the file, and what errors call it.
        block_bytes: a block ends at the first line end past this size.

    Raises (while iterating):
        DataError: cut short, damaged, or with a line that is too long; names the place.
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
            "a file that is cut short or damaged would silently give less data",
            "fetch it again, or compare its checksum with the source's",
        ) from error


def _read_line_blocks(stream: IO[bytes], name: str, block_bytes: int) -> Iterator[TextBlock]:
    first_line = 1
    pending: list[bytes] = []
    n_pending = n_open = 0  # bytes held back; those of them past the last line end
    while piece := stream.read(_READ_BYTES):
        # The border must not depend on how much a read gives: it is the first line end past it.
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
    """Turn blocks into documents.

    Args:
        text_key, subset_key: dotted places in a record.
        skip_bad: count and pass over bad records instead of stopping at the first.
    """

    def __init__(
        self,
        text_key: str = ReadingOptions.text_key,
        subset_key: str = ReadingOptions.subset_key,
        skip_bad: bool = ReadingOptions.skip_bad,
    ) -> None:
        self.text_key, self.subset_key = text_key.split("."), subset_key.split(".")
        self.skip_bad = skip_bad

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
        """Parse a block without any bad, blank or odd line; None: there may be one."""
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
        if set(map(type, texts)) != {str} or set(map(type, subsets)) != {str}:
            return None
        if not (all(texts) and all(subsets)):
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
                    "a mirror that is gone often answers with such a page",
                    "fetch the file again from another source",
                )
            begun = True
            self._parse_line(raw + b"\n", block.name, number, parsed)
        return parsed

    def _parse_text(self, block: TextBlock) -> Parsed:
        parsed = Parsed()
        try:
            text = block.raw.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"{block.name}: byte {error.start} is not UTF-8"
            self._bad("not UTF-8", what, parsed)
            return parsed
        if text:
            parsed.texts, parsed.subsets, parsed.lines = [text], [UNKNOWN_SUBSET], [0]
        else:
            self._bad("empty text", f"{block.name}: the text is empty", parsed)
        return parsed

    def _parse_line(self, raw: bytes, name: str, number: int, parsed: Parsed) -> None:
        place = f"{name}:{number}"
        try:
            record = _parse_json(raw)
        except UnicodeDecodeError as error:
            return self._bad("not UTF-8", f"{place}: byte {error.start} is not UTF-8", parsed)
        except (ValueError, RecursionError) as error:
            # The parser's own line is always 1, so only its column and its words are shown.
            column, words = getattr(error, "colno", 1), getattr(error, "msg", error)
            if number == 1 and not {".jsonl", ".json"} & set(Path(name).suffixes):
                words = f"{words}; as plain text only names in .txt are read"
            return self._bad("not JSON", f"{place}:{column}: not valid JSON ({words})", parsed)
        text = _dig(record, self.text_key)
        if not isinstance(text, str):
            found = "missing" if text is None else f"a {type(text).__name__}"
            what = f"{place}: {'.'.join(self.text_key)!r} is {found}, not a string"
            return self._bad("no text", what, parsed)
        if not text:
            return self._bad("empty text", f"{place}: the text is empty", parsed)
        subset = _dig(record, self.subset_key)
        subset = subset if isinstance(subset, str) and subset else UNKNOWN_SUBSET
        for word in (text, subset):
            if not _encodable(word):
                return self._bad("lone surrogate", f"{place}: it holds a lone surrogate", parsed)
        parsed.texts.append(text)
        parsed.subsets.append(subset)
        parsed.lines.append(number)
        return None

    def _bad(self, reason: str, what: str, parsed: Parsed) -> None:
        # An empty text is nothing to train on and nothing to score, and never an error.
        if reason != "empty text" and not self.skip_bad:
            raise DataError(
                what,
                "a corpus that loses records in silence is another corpus",
                "fix the line, or use --skip-bad to skip and count such records",
            )
        parsed.skipped[reason] += 1
        if len(parsed.examples) < 20:
            parsed.examples.append(what)


class Reader:
    """Iterate over the documents of some files one by one, in order, with bounded memory.

    Args:
        sources: files or folders, see `expand_sources`.
        text_key, subset_key, skip_bad: see `RecordParser`.

    `skipped` counts skipped records by reason.

    Raises (while iterating):
        DataError: names file, line and column, and how to continue.
    """

    def __init__(
        self,
        sources: Iterable[str | Path],
        *,
        text_key: str = ReadingOptions.text_key,
        subset_key: str = ReadingOptions.subset_key,
        skip_bad: bool = ReadingOptions.skip_bad,
    ) -> None:
        self.files = expand_sources(sources)
        self.parser = RecordParser(text_key, subset_key, skip_bad)
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Document]:
        for path in self.files:
            name = "<stdin>" if str(path) == "-" else str(path)
            for block in read_blocks(path, name):
                parsed = self.parser.parse(block)
                self.skipped += parsed.skipped
                for text, subset, line in zip(
                    parsed.texts, parsed.subsets, parsed.lines, strict=True
                ):
                    yield Document(text, subset, name, line)


def _parse_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        # Lone surrogates and huge numbers are JSON; and the message is better.
        return _parse_json_slowly(raw)


def _parse_json_slowly(raw: bytes) -> Any:
    # Decoded first: given bytes, `json` guesses at UTF-16 and lets surrogates through.
    return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
