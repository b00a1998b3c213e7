"""Encode a share of a corpus into pieces.

Owns the cutting of files into pieces, the sharing of files and pieces among parts, and the
encoding of a part. A piece consists of a fixed number of blocks of one file, so its bytes do not
depend on who makes it, and a piece that exists is not made again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ladderlm.corpus.documents import ReadingOptions, RecordParser, TextBlock, read_blocks
from ladderlm.data.shards import token_dtype
from ladderlm.errors import DataError
from ladderlm.files import publish_json, read_json
from ladderlm.prepare.encoded_piece import (
    EncodedPiece,
    encode_documents,
    join_pieces,
    piece_sizes,
    write_piece,
)
from ladderlm.tokenizer.base import Tokenizer

__all__ = [
    "EncodingOptions",
    "PartJob",
    "SourceFile",
    "SourceLimits",
    "Turn",
    "encode_part",
    "find_pieces",
    "share_files",
]

Turn = tuple[int, int]  # (n, r): piece i of file f is taken if (f + i) % n == r; n = 0: none
_LOOK_SECONDS = 0.02  # between two checks for a piece that is being made
_SLACK = 1.05  # times an even share that a worker may take, so that fewer files are read twice


@dataclass(frozen=True, kw_only=True)
class SourceLimits:
    """How much of the sources to take, from their beginning. None: all."""

    max_documents: int | None = None
    max_tokens: int | None = None  # with BOS and EOS
    max_bytes: int | None = None  # UTF-8 bytes of the texts

    @property
    def each(self) -> tuple[int | None, int | None, int | None]:
        """Limits of documents, bytes, tokens."""
        return (self.max_documents, self.max_bytes, self.max_tokens)

    def met(self, sizes: list[int]) -> bool:
        """Return whether so many documents, bytes and tokens reach a limit."""
        return any(most is not None and n >= most for n, most in zip(sizes, self.each, strict=True))


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file at the time when it was hashed.

    Args:
        shown: its name in errors.
        state: size, modification time and inode, by which a change is noticed.
    """

    path: str
    shown: str
    state: tuple[int, ...]

    @staticmethod
    def state_of(path: Path | str) -> tuple[int, ...]:
        """Return the values that change when a file is written to or replaced."""
        status = Path(path).stat()
        return (status.st_size, status.st_mtime_ns, status.st_ino)

    def check_unchanged(self) -> None:
        """Check that the file is still the one that was hashed.

        Raises:
            DataError: it changed.
        """
        if self.state_of(self.path) != self.state:
            raise DataError(
                f"{self.shown} changed while it was read",
                "the shards would hold a mixture of two versions",
                "run the same command again when the file is complete",
            )


@dataclass(frozen=True, kw_only=True)
class EncodingOptions(ReadingOptions):
    """How documents are read and encoded.

    Args:
        tokenizer: folder.
        near: compute keys for near duplicates.
    """

    tokenizer: str
    near: bool


@dataclass(frozen=True, kw_only=True)
class PartJob(EncodingOptions):
    """One part of the work on one split.

    Args:
        folder: where its pieces go; several parts may share it.
        files: all source files of the split, in order.
        turns: which pieces of each file it makes.
        block_bytes, piece_blocks: bytes of a block, and blocks of a piece.
    """

    folder: str
    files: tuple[SourceFile, ...]
    turns: tuple[Turn, ...]
    block_bytes: int
    piece_blocks: int
    limits: SourceLimits


Report = Callable[[int], None]  # called with the documents encoded since the last call


def encode_part(job: PartJob, tokenizer: Tokenizer, report: Report = lambda _: None) -> None:
    """Make the pieces of one part that do not exist yet.

    A part stops once it alone reaches a limit of the whole. A piece is written while the next one
    is encoded.

    Raises:
        DataError: bad input, or a source that changes meanwhile.
    """
    folder, parser = Path(job.folder), RecordParser(job)
    sizes = [0, 0, 0]
    with ThreadPoolExecutor(1) as writer:  # leaving waits for the last piece
        written: Future[None] | None = None
        for number, (file, (n, r)) in enumerate(zip(job.files, job.turns, strict=True)):
            if n == 0 or _is_complete(job, number):
                continue
            n_pieces = 0
            for index, blocks in _pieces(job, file):
                n_pieces = index + 1
                if (number + index) % n != r:
                    continue
                path = _piece_path(folder, number, index)
                if path.exists():
                    found = piece_sizes(path)
                else:
                    piece = _encode_piece(blocks, parser, tokenizer, job.near, file, report)
                    found = piece.sizes
                    if written is not None:
                        written.result()  # one piece waits at most
                    written = writer.submit(write_piece, path, piece)
                sizes = [a + b for a, b in zip(sizes, found, strict=True)]
                if job.limits.met(sizes):
                    break
            if written is not None:
                written.result()
            if job.limits.met(sizes):
                return
            file.check_unchanged()
            publish_json(_count_path(folder, number), {"n_pieces": n_pieces})


def _encode_piece(
    blocks: Iterable[TextBlock],
    parser: RecordParser,
    tokenizer: Tokenizer,
    near: bool,
    file: SourceFile,
    report: Report,
) -> EncodedPiece:
    dtype = token_dtype(tokenizer.vocab_size)
    encoded = []
    for block in blocks:
        parsed = parser.parse(block)
        # Data must not depend on the folder of its corpus, so only the name is kept.
        parsed.examples = [e.replace(file.shown, Path(file.shown).name) for e in parsed.examples]
        encoded.append(encode_documents(parsed, tokenizer, dtype, near))
        report(encoded[-1].n_documents)
    file.check_unchanged()
    return join_pieces(encoded)


def _pieces(job: PartJob, file: SourceFile) -> Iterator[tuple[int, Iterator[TextBlock]]]:
    """Group the blocks of a file into pieces: (index, blocks)."""
    numbered = enumerate(read_blocks(Path(file.path), file.shown, job.block_bytes))
    for index, group in groupby(numbered, lambda item: item[0] // job.piece_blocks):
        yield index, (block for _, block in group)


def _piece_path(folder: Path, file: int, index: int) -> Path:
    return folder / f"{file:05d}-{index:06d}.piece"


def _count_path(folder: Path, file: int) -> Path:
    return folder / f"{file:05d}.json"


def _known_pieces(folder: Path, file: int) -> int | None:
    path = _count_path(folder, file)
    return int(read_json(path)["n_pieces"]) if path.is_file() else None


def _is_complete(job: PartJob, file: int) -> bool:
    """Return whether a part has all its pieces of a file."""
    (n, r), n_pieces = job.turns[file], _known_pieces(Path(job.folder), file)
    if n_pieces is None or job.limits != SourceLimits():
        return False
    own = (index for index in range(n_pieces) if (file + index) % n == r)
    return all(_piece_path(Path(job.folder), file, index).exists() for index in own)


def find_pieces(
    folders: list[Path], n_files: int, still_made: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Path]]:
    """Return the pieces of a split in the order of its documents: (number of the file, path).

    Args:
        folders: of the parts.
        n_files: number of source files.
        still_made: returns whether pieces may still appear; missing ones are then waited for.

    Raises:
        DataError (when it is reached): a piece is in none of the folders.
    """
    for file in range(n_files):
        index = 0
        while True:
            waiting = still_made()  # asked before looking, so that the last piece is seen
            found = [p for f in folders if (p := _piece_path(f, file, index)).is_file()]
            if found:
                yield file, found[0]
                index += 1
            elif any(_known_pieces(folder, file) == index for folder in folders):
                break
            elif waiting:
                time.sleep(_LOOK_SECONDS)
            else:
                raise DataError(
                    f"piece {index} of source file {file} is in none of the parts",
                    fix="run each `prepare --part i/n` to its end, and name all their folders",
                )


def share_files(sizes: Sequence[float], n: int) -> list[int | None]:
    """Share files among n workers so that as few as possible are read by more than one.

    A worker reads a file from its beginning even to take only some of its pieces.

    Returns:
        For each file the worker that takes all of it, or None if all share its pieces.
    """
    owners: list[int | None] = [None] * len(sizes)
    loads = [0.0] * n
    most = _SLACK * sum(sizes) / n
    for number in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = loads.index(min(loads))
        if loads[least] + sizes[number] <= most:
            loads[least] += sizes[number]
            owners[number] = least
    return owners
