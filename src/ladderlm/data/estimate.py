"""What a `prepare` will take: time, disk, tokens.

Owns the sample that is encoded beforehand and the sums made from it. An estimate depends on the
machine and its load, so it stands in no manifest.
"""

import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ladderlm.data.decompress import read_head
from ladderlm.data.documents import Block, RecordParser
from ladderlm.data.pieces import encode_documents
from ladderlm.data.request import SplitRequest
from ladderlm.data.shards import INDEX_DTYPE, token_dtype
from ladderlm.errors import DataError
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.units import format_bytes, format_count, format_seconds

__all__ = ["Estimate", "estimate_splits"]

SAMPLE_BYTES, SAMPLE_FILES = 512 << 10, 3
_WRITE_BYTES_PER_SECOND = 200e6  # of tokens, when pieces become shards; hashing decides it
_PER_DOCUMENT_BYTES = INDEX_DTYPE.itemsize + 16  # index and two hashes


@dataclass(frozen=True)
class Estimate:
    """What is to be expected, from a sample of a few files.

    Args:
        n_documents, text_bytes, n_tokens: of all splits together.
        data_bytes: size of the result.
        disk_bytes: most that lies on the disk meanwhile.
        seconds: with this many workers, on this machine, as busy as it is now.
    """

    n_documents: float
    text_bytes: float
    n_tokens: float
    data_bytes: int
    disk_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain numbers."""
        return {key: round(value) for key, value in asdict(self).items() if key != "seconds"} | {
            "timing": {"seconds": round(self.seconds, 1)}
        }

    def __str__(self) -> str:
        return (
            f"about {format_count(self.n_documents)} documents, {format_bytes(self.text_bytes)} of "
            f"text, {format_count(self.n_tokens)} tokens; {format_bytes(self.data_bytes)} of data, "
            f"{format_bytes(self.disk_bytes)} of disk meanwhile, {format_seconds(self.seconds)}"
        )


def estimate_splits(requests: list[SplitRequest], tokenizer: Tokenizer) -> Estimate:
    """Encode the beginnings of a few files of each split, and scale them up."""
    total = [0.0] * 4  # documents, bytes, tokens, seconds of one process
    for request in requests:
        found = _sample(request, tokenizer)
        limits = request.config.limits.each
        shares = [limit / n for limit, n in zip(limits, found, strict=False) if limit and n]
        share = min([1.0, *shares])
        total = [a + share * b for a, b in zip(total, found, strict=True)]
    n_documents, text_bytes, n_tokens, seconds = total
    token_bytes = n_tokens * token_dtype(tokenizer.vocab_size).itemsize
    data_bytes = int(token_bytes + n_documents * _PER_DOCUMENT_BYTES)
    near = any(request.config.near_duplicates for request in requests)
    piece_bytes = int(token_bytes + n_documents * (40 + 64 * near))
    n_workers = requests[0].config.n_workers if requests else 1
    seconds = seconds / n_workers + token_bytes / _WRITE_BYTES_PER_SECOND
    disk_bytes = data_bytes + piece_bytes
    return Estimate(n_documents, text_bytes, n_tokens, data_bytes, disk_bytes, seconds)


def _sample(request: SplitRequest, tokenizer: Tokenizer) -> list[float]:
    """Give documents, bytes, tokens and seconds of one process for a whole split."""
    config = request.config
    parser = RecordParser(config.text_key, config.subset_key, skip_bad=True)
    dtype = token_dtype(tokenizer.vocab_size)
    n_files = len(request.files)
    step = -(-n_files // SAMPLE_FILES)
    sums = [0.0] * 4
    taken_bytes = 0
    for file in request.files[::step]:
        try:
            raw, consumed = read_head(Path(file.path), file.shown, SAMPLE_BYTES)
        except (OSError, EOFError, zlib.error):
            continue  # read again below, where the error is explained
        whole_lines = raw[: raw.rfind(b"\n") + 1] or raw
        started = time.perf_counter()
        try:
            parsed = parser.parse(Block(file.shown, 1, whole_lines))
        except DataError:
            continue
        piece = encode_documents(parsed, tokenizer, dtype, config.near_duplicates)
        sizes = (piece.n_documents, int(piece.n_bytes.sum()), len(piece.tokens))
        for i, amount in enumerate((*sizes, time.perf_counter() - started)):
            sums[i] += amount
        taken_bytes += min(consumed, file.state[0]) * len(whole_lines) // max(len(raw), 1)
    all_bytes = sum(file.state[0] for file in request.files)
    return [amount * all_bytes / max(taken_bytes, 1) for amount in sums]
