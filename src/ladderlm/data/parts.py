"""Encode a share of a corpus into pieces.

Owns the cutting of files into pieces, the sharing of files and pieces among parts, and the
processes that make several parts at once. A piece is a fixed run of blocks of one file, so what
it holds does not depend on who makes it, and a piece that is there already is not made again.
"""

import contextlib
import functools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ladderlm.config import from_dict, to_dict
from ladderlm.data.documents import Block, RecordParser, read_blocks
from ladderlm.data.pieces import Piece, encode_documents, join_pieces, piece_sizes, write_piece
from ladderlm.data.shards import token_dtype
from ladderlm.errors import DataError, ExecutorError, LadderError
from ladderlm.files import publish_json, read_json
from ladderlm.tokenizer.base import Tokenizer, load_tokenizer

__all__ = [
    "Limits",
    "PartJob",
    "SourceFile",
    "Turn",
    "encode_part",
    "encode_parts",
    "find_pieces",
    "share_files",
]

Turn = tuple[int, int]  # (n, r): piece i of file f is taken if (f + i) % n == r; n = 0: none
_SLACK = 1.05  # more than an even share that a worker may have, to read no file twice


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of the sources is taken, from their beginning. None: all."""

    max_documents: int | None = None
    max_tokens: int | None = None  # BOS and EOS in
    max_bytes: int | None = None  # UTF-8 bytes of the texts

    @property
    def each(self) -> tuple[int | None, int | None, int | None]:
        """Documents, bytes, tokens."""
        return (self.max_documents, self.max_bytes, self.max_tokens)

    def met(self, sizes: list[int]) -> bool:
        """Say whether so many documents, bytes and tokens are enough."""
        pairs = zip(sizes, self.each, strict=True)
        return any(limit is not None and n >= limit for n, limit in pairs)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file as it was when it was hashed.

    Args:
        path: where it lies.
        shown: what errors call it.
        state: size, modification time and inode; another state means that it has changed.
    """

    path: str
    shown: str
    state: tuple[int, ...]

    @staticmethod
    def state_of(path: Path | str) -> tuple[int, ...]:
        """Give what changes when a file is written to or replaced."""
        status = Path(path).stat()
        return (status.st_size, status.st_mtime_ns, status.st_ino)

    def check_unchanged(self) -> None:
        """Refuse a file that is no longer what was hashed.

        Raises:
            DataError: names it.
        """
        if self.state_of(self.path) != self.state:
            raise DataError(
                f"{self.shown} changed while it was read",
                "the shards would hold a mixture of two versions",
                "let it settle, then run the same command again",
            )


@dataclass(frozen=True, kw_only=True)
class PartJob:
    """One part of the work on one split.

    Args:
        folder: where its pieces go; several parts may share it.
        files: all source files of the split, in order.
        tokenizer: folder.
        turns: which pieces of each file it makes.
        block_bytes, piece_blocks: bytes of a block, and blocks of a piece.
        near: make keys for near duplicates.
        text_key, subset_key, skip_bad: see `RecordParser`.
    """

    folder: str
    files: tuple[SourceFile, ...]
    tokenizer: str
    turns: tuple[Turn, ...]
    block_bytes: int
    piece_blocks: int
    near: bool
    text_key: str
    subset_key: str
    skip_bad: bool
    limits: Limits


Report = Callable[[int], None]  # told documents encoded since the last call


def encode_part(job: PartJob, tokenizer: Tokenizer, report: Report = lambda _: None) -> None:
    """Make the pieces of one part that are not there yet.

    A part never needs more than the limits allow the whole, so it stops once it has that much.
    A piece is written while the next one is encoded.

    Raises:
        DataError: bad input, or a source that changes meanwhile.
    """
    folder = Path(job.folder)
    parser = RecordParser(job.text_key, job.subset_key, job.skip_bad)
    sizes = [0, 0, 0]
    with _Writer() as writer:
        for number, (file, (n, r)) in enumerate(zip(job.files, job.turns, strict=True)):
            if n == 0:
                continue
            n_pieces = _known_pieces(folder, number)
            if n_pieces is not None and job.limits == Limits() and _complete(job, number, n_pieces):
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
                    piece = _encode_piece(blocks, parser, tokenizer, job, file, report)
                    writer.write(path, piece)
                    found = (piece.n_documents, int(piece.n_bytes.sum()), len(piece.tokens))
                sizes = [a + b for a, b in zip(sizes, found, strict=True)]
                if job.limits.met(sizes):
                    return
            writer.wait()
            file.check_unchanged()
            publish_json(_count_path(folder, number), {"n_pieces": n_pieces})


class _Writer:
    """Write one piece at a time on a thread of its own; leaving waits for the last."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown()

    def write(self, path: Path, piece: Piece) -> None:
        """Begin to write a piece once the one before is written."""
        self.wait()
        self._last = self._pool.submit(write_piece, path, piece)

    def wait(self) -> None:
        """Wait for what is being written.

        Raises:
            OSError: it could not be.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()


def _encode_piece(
    blocks: Iterable[Block],
    parser: RecordParser,
    tokenizer: Tokenizer,
    job: PartJob,
    file: SourceFile,
    report: Report,
) -> Piece:
    dtype = token_dtype(tokenizer.vocab_size)
    encoded = []
    for block in blocks:
        parsed = parser.parse(block)
        # Data should not depend on where its corpus lies, so only the name is kept.
        parsed.examples = [e.replace(file.shown, Path(file.shown).name) for e in parsed.examples]
        encoded.append(encode_documents(parsed, tokenizer, dtype, job.near))
        report(encoded[-1].n_documents)
    file.check_unchanged()
    return join_pieces(encoded)


def _pieces(job: PartJob, file: SourceFile) -> Iterator[tuple[int, Iterator[Block]]]:
    """Group the blocks of a file into pieces: (index, its blocks)."""
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


def _complete(job: PartJob, file: int, n_pieces: int) -> bool:
    n, r = job.turns[file]
    own = (index for index in range(n_pieces) if (file + index) % n == r)
    return all(_piece_path(Path(job.folder), file, index).exists() for index in own)


def find_pieces(folders: list[Path], n_files: int) -> Iterator[tuple[int, Path]]:
    """Give the pieces of a split in the order of its documents: (number of the file, path).

    Args:
        folders: where the parts wrote.
        n_files: how many source files there are.

    Raises:
        DataError (when it is reached): a piece is in none of the folders.
    """
    for file in range(n_files):
        counts = [n for folder in folders if (n := _known_pieces(folder, file)) is not None]
        index = 0
        while not counts or index < counts[0]:
            places = [_piece_path(folder, file, index) for folder in folders]
            found = [path for path in places if path.is_file()]
            if not found:
                raise DataError(
                    f"piece {index} of source file {file} is in none of the parts",
                    "a part is missing, has not finished, or lost a file",
                    "run each `prepare --part i/n` to its end, and name all their folders",
                )
            yield file, found[0]
            index += 1


def share_files(sizes: Sequence[float], n: int) -> list[int | None]:
    """Share files among n workers so that as few as possible are read by more than one.

    A file is read from its beginning even by a worker that takes only some of its pieces.

    Returns:
        For each file the worker that takes all of it; None: all share its pieces.
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


def encode_parts(
    workers: list[list[PartJob]], report: Callable[[int, int], None] = lambda _, __: None
) -> None:
    """Do lists of jobs at once, each list in a process of its own; one alone is done right here.

    Args:
        workers: the jobs of each, which share a tokenizer.
        report: told (number of the job in its list, documents encoded since the last call).

    Raises:
        DataError: what any of them ran into; the others are stopped.
        ExecutorError: one of them died.
    """
    if len(workers) == 1:
        _encode_all(workers[0], report)
        return
    said: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    with contextlib.ExitStack() as children:
        processes = [children.enter_context(_worker(jobs)) for jobs in workers]
        for number, process in enumerate(processes):
            threading.Thread(target=_listen, args=(number, process, said), daemon=True).start()
        running = set(range(len(workers)))
        while running:
            number, message = said.get()
            if message is None:
                running.discard(number)
                if processes[number].wait() != 0:
                    raise ExecutorError(
                        f"a process that encodes ended with code {processes[number].returncode}",
                        "its pieces are not complete",
                        "run the same command again: it goes on; less --workers need less memory",
                    )
            elif "error" in message:
                raise DataError(*message["error"])
            else:
                report(*message["documents"])


def _encode_all(jobs: list[PartJob], report: Callable[[int, int], None]) -> None:
    tokenizer = load_tokenizer(jobs[0].tokenizer)
    for number, job in enumerate(jobs):
        encode_part(job, tokenizer, functools.partial(report, number))


@contextlib.contextmanager
def _worker(jobs: list[PartJob]) -> Iterator[subprocess.Popen[bytes]]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, "-c", "from ladderlm.data.parts import work; work()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | threads | {"PYTHONPATH": path},
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps([to_dict(job) for job in jobs]).encode() + b"\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _listen(
    number: int,
    process: subprocess.Popen[bytes],
    said: "queue.Queue[tuple[int, dict[str, Any] | None]]",
) -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):  # closed because another one failed
        for line in process.stdout:
            said.put((number, json.loads(line)))
    said.put((number, None))


def work() -> None:
    """Be a worker: read a list of `PartJob` from standard input, answer in JSON lines.

    Ends as soon as the one who started it is gone, which closes standard input.
    """
    told = sys.stdin.buffer.readline()
    if not told.endswith(b"\n"):
        return  # the one who started it is gone already
    jobs = [from_dict(PartJob, job) for job in json.loads(told)]
    threading.Thread(target=_die_with_parent, daemon=True).start()
    out, sys.stdout = sys.stdout, sys.stderr

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        _encode_all(jobs, lambda number, n: say({"documents": [number, n]}))
    except LadderError as error:
        say({"error": [error.what, error.why, error.fix]})
    except BrokenPipeError:
        os._exit(1)


def _die_with_parent() -> None:
    os.read(0, 1)  # not through `sys.stdin`, whose lock would stand in the way of a normal end
    os._exit(1)
