"""Estimate of time, disk space and tokens of a `prepare`.

Owns the sample that is encoded in advance, and its extrapolation. An estimate depends on the
machine and its load, so it is in no manifest.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ladderlm.corpus.decompress import read_head
from ladderlm.corpus.documents import RecordParser, TextBlock
from ladderlm.data.shard_writer import INDEX_DTYPE
from ladderlm.data.shards import token_dtype
from ladderlm.errors import DataError
from ladderlm.prepare.encoded_piece import encode_documents
from ladderlm.prepare.encoding import EncodingOptions, SourceFile
from ladderlm.prepare.request import SplitRequest
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.units import format_bytes, format_count, format_seconds

__all__ = ["PrepareEstimate", "SampleJob", "Sums", "estimate_splits", "take_samples"]

SAMPLE_BYTES, SAMPLE_FILES = 512 << 10, 3
_WRITE_BYTES_PER_SECOND = 200e6  # of tokens, when pieces become shards; hashing decides it
_PER_DOCUMENT_BYTES = INDEX_DTYPE.itemsize + 16  # index and two hashes


@dataclass(frozen=True)
class PrepareEstimate:
    """Expected cost of a `prepare`, from a sample of a few files.

    Args:
        n_documents, text_bytes, n_tokens: of all splits together.
        data_bytes: size of the result.
        disk_bytes: peak of the disk space in use.
        seconds: with this number of workers, on this machine under its current load.
    """

    n_documents: float
    text_bytes: float
    n_tokens: float
    data_bytes: int
    disk_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain numbers."""
        rounded = {key: round(value) for key, value in asdict(self).items() if key != "seconds"}
        return rounded | {"timing": {"seconds": round(self.seconds, 1)}}

    def __str__(self) -> str:
        return (
            f"about {format_count(self.n_documents)} documents, {format_bytes(self.text_bytes)} of "
            f"text, {format_count(self.n_tokens)} tokens; {format_bytes(self.data_bytes)} of data, "
            f"{format_bytes(self.disk_bytes)} of disk meanwhile, {format_seconds(self.seconds)}"
        )


@dataclass(frozen=True, kw_only=True)
class SampleJob(EncodingOptions):
    """A file whose beginning is encoded."""

    file: SourceFile


Sums = list[float]  # documents, bytes, tokens, seconds of one process, bytes of the file


def estimate_splits(
    requests: list[SplitRequest], vocab_size: int, take: Callable[[list[SampleJob]], list[Sums]]
) -> PrepareEstimate:
    """Encode the beginnings of a few files of each split, and extrapolate.

    Args:
        take: returns what `take_samples` does.
    """
    jobs = [
        [
            SampleJob(file=file, **request.encoding)
            for file in request.files[:: -(-len(request.files) // SAMPLE_FILES)]
        ]
        for request in requests
    ]
    sums = iter(take([job for some in jobs for job in some]))
    total = [0.0] * 4
    for request, some in zip(requests, jobs, strict=True):
        *amounts, taken_bytes = map(sum, zip(*[next(sums) for _ in some], strict=True))
        all_bytes = sum(file.state[0] for file in request.files)
        found = [amount * all_bytes / max(taken_bytes, 1) for amount in amounts]
        limits = request.config.limits.each
        shares = [limit / n for limit, n in zip(limits, found, strict=False) if limit and n]
        share = min([1.0, *shares])
        total = [a + share * b for a, b in zip(total, found, strict=True)]
    n_documents, text_bytes, n_tokens, seconds = total
    token_bytes = n_tokens * token_dtype(vocab_size).itemsize
    data_bytes = int(token_bytes + n_documents * _PER_DOCUMENT_BYTES)
    near = any(request.config.near_duplicates for request in requests)
    disk_bytes = data_bytes + int(token_bytes + n_documents * (40 + 64 * near))
    n_workers = requests[0].config.n_workers if requests else 1
    seconds = seconds / n_workers + token_bytes / _WRITE_BYTES_PER_SECOND
    return PrepareEstimate(n_documents, text_bytes, n_tokens, data_bytes, disk_bytes, seconds)


def take_samples(jobs: list[SampleJob], tokenizer: Tokenizer) -> list[Sums]:
    """Encode the beginning of each file; zeros for unreadable ones, which `prepare` reports."""
    return [_take_sample(job, tokenizer) for job in jobs]


def _take_sample(job: SampleJob, tokenizer: Tokenizer) -> Sums:
    file = job.file
    try:
        parser = RecordParser(replace(job, skip_bad=True))
        for _ in range(2):  # the first time includes the start of the encoder
            started = time.perf_counter()
            raw, consumed = read_head(Path(file.path), file.shown, SAMPLE_BYTES)
            whole_lines = raw[: raw.rfind(b"\n") + 1] or raw
            parsed = parser.parse(TextBlock(file.shown, 1, whole_lines))
            piece = encode_documents(parsed, tokenizer, token_dtype(tokenizer.vocab_size), job.near)
            seconds = time.perf_counter() - started
    except (DataError, OSError, EOFError, zlib.error):
        return [0.0] * 5
    taken = min(consumed, file.state[0]) * len(whole_lines) // max(len(raw), 1)
    return [*piece.sizes, seconds, taken]
