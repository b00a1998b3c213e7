"""The request of a call of `prepare`.

Owns `PrepareConfig`, the choice of files for each split, and the request of a split: its sources
by content and all options that decide its bytes, not paths and numbers of workers.
"""

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ladderlm.config import content_hash, require
from ladderlm.corpus.documents import BLOCK_BYTES, ReadingOptions
from ladderlm.corpus.files import expand_sources, files_by_split
from ladderlm.errors import DataError
from ladderlm.files import publish_stream, sha256_file
from ladderlm.prepare.encoding import PartJob, SourceFile, SourceLimits, Turn, share_files

__all__ = ["PrepareConfig", "SplitRequest", "plan_splits", "request_splits"]

_log = logging.getLogger(__name__)
STDIN = "<stdin>"
PIECE_BLOCKS = 4  # blocks of 4 MiB
PIECE_VERSION = 1  # raise when the same sources give other pieces


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(ReadingOptions):
    """Encode text into verified token shards."""

    sources: tuple[str, ...]
    """Corpus files (.jsonl or .txt, plain, .zst or .gz), folders of them, or - for standard
    input."""
    tokenizer: str
    """Folder of the tokenizer."""
    out: str
    """Folder of the data to write. Splits that it already has stay."""
    split: str | None = None
    """Name of the split. Default: train and val from a folder that has both, otherwise train."""
    max_documents: int | None = None
    """Number of documents to take from the beginning of each split. Default: all."""
    max_tokens: int | None = None
    """Number of tokens to take from the beginning of each split, in whole documents and with BOS
    and EOS. Default: all."""
    max_bytes: int | None = None
    """Bytes of text to take from the beginning of each split, in whole documents. Default: all."""
    n_workers: int = 2
    """Number of processes that encode. The result does not depend on it."""
    allow_overlap: bool = False
    """Accept validation documents that are in the training split too."""
    dedup: Literal["none", "exact"] = "none"
    """Which duplicates to leave out. none: keep all. exact: leave out documents whose text is that
    of an earlier one in the split."""
    near_duplicates: bool = False
    """Count documents that are nearly equal to an earlier one in the split (MinHash)."""

    def __post_init__(self) -> None:
        for what in ("documents", "tokens", "bytes"):
            limit = getattr(self, f"max_{what}")
            require(f"--max-{what}", limit, limit is None or limit >= 1, "be at least 1")
        require("--workers", self.n_workers, self.n_workers >= 1, "be at least 1")

    @property
    def limits(self) -> SourceLimits:
        """How much of the sources to take."""
        return SourceLimits(
            max_documents=self.max_documents, max_tokens=self.max_tokens, max_bytes=self.max_bytes
        )


@dataclass(frozen=True)
class SplitRequest:
    """One split to prepare.

    Args:
        name: for example "train".
        files: its sources, as they were when they were hashed.
        record: its entry in the manifest.
    """

    name: str
    files: tuple[SourceFile, ...]
    record: dict[str, Any]
    config: PrepareConfig

    @property
    def encoding(self) -> dict[str, Any]:
        """The fields of `EncodingOptions`."""
        config = self.config
        own = {key: getattr(config, key) for key in ("text_key", "subset_key", "skip_bad")}
        return own | {"tokenizer": config.tokenizer, "near": config.near_duplicates}

    def folder_name(self, tokenizer_fingerprint: str) -> str:
        """Return the name of the folder of its pieces, a hash of all that decides their bytes.

        Limits and the removal of duplicates do not change a piece.
        """
        kept = ("sources", "text_key", "subset_key", "skip_bad", "near_duplicates")
        made_of = [
            {key: self.record[key] for key in kept},
            tokenizer_fingerprint,
            [BLOCK_BYTES, PIECE_BLOCKS, PIECE_VERSION],
        ]
        return f"{self.name}-{content_hash(made_of)[:16]}"

    def jobs(self, folder: Path, part: int, n_parts: int, n_workers: int) -> list[PartJob]:
        """Return the jobs of the workers of part 0 <= part < n_parts."""
        sizes = [file.state[0] for file in self.files]
        owners = share_files(sizes, n_parts)
        # Which files a part takes may depend on the request only: other machines run the rest.
        own = [size * (owner == part) for size, owner in zip(sizes, owners, strict=True)]
        takers = share_files(own, n_workers)

        def turn(number: int, worker: int) -> Turn:
            if owners[number] is None:
                return n_parts * n_workers, part + n_parts * worker
            if owners[number] == part and takers[number] is None:
                return n_workers, worker
            return (1, 0) if (owners[number], takers[number]) == (part, worker) else (0, 0)

        return [
            PartJob(
                folder=str(folder),
                files=self.files,
                turns=tuple(turn(number, worker) for number in range(len(sizes))),
                block_bytes=BLOCK_BYTES,
                piece_blocks=PIECE_BLOCKS,
                limits=self.config.limits,
                **self.encoding,
            )
            for worker in range(n_workers)
        ]


def plan_splits(config: PrepareConfig) -> dict[str, list[Path]]:
    """Return the files of each split."""
    if config.split is not None:
        if not (config.split.isascii() and config.split.isidentifier()):
            what = f"--split must consist of letters, digits and _, got {config.split!r}"
            raise DataError(what, fix="use a name such as train")
        return {config.split: expand_sources(config.sources)}
    plan: dict[str, list[Path]] = {}
    if len(config.sources) == 1 and Path(config.sources[0]).is_dir():
        folder = Path(config.sources[0])
        plan = files_by_split(folder)
        named = {file for files in plan.values() for file in files}
        unused = [file for file in expand_sources([folder]) if file not in named]
        if plan and unused:
            names = ", ".join(repr(str(file.relative_to(folder)))[1:-1] for file in unused[:5])
            _log.warning("left out files that are not named after a split: %s", names)
    return plan or {"train": expand_sources(config.sources)}


def request_splits(config: PrepareConfig, spool: Path | None) -> dict[str, SplitRequest]:
    """Hash the sources of every requested split.

    Args:
        spool: file for standard input, which can be read only once; None: there is none.

    Raises:
        DataError: a source does not exist, or changes while it is hashed.
    """
    requests = {}
    for name, paths in plan_splits(config).items():
        if sum(str(path) == "-" for path in paths) > 1:
            raise DataError("standard input can be read only once", fix="name - only once")
        hashed = [_hash(path, spool) for path in paths]
        limit = config.max_documents
        record = {
            "sources": [source for _, source in hashed],
            "text_key": config.text_key,
            "subset_key": config.subset_key,
            "skip_bad": config.skip_bad,
            "documents": "all" if limit is None else f"the first {limit}",
            "max_tokens": config.max_tokens,
            "max_bytes": config.max_bytes,
            "dedup": config.dedup,
            "near_duplicates": config.near_duplicates,
        }
        requests[name] = SplitRequest(name, tuple(file for file, _ in hashed), record, config)
    return requests


def _hash(path: Path, spool: Path | None) -> tuple[SourceFile, dict[str, Any]]:
    name, shown = path.name, str(path)
    if shown == "-" and spool is not None:
        with publish_stream(spool) as kept:
            shutil.copyfileobj(sys.stdin.buffer, kept, 1 << 20)
        path, name, shown = spool, STDIN, STDIN
    file = SourceFile(path=str(path), shown=shown, state=SourceFile.state_of(path))
    sha256 = sha256_file(path)
    file.check_unchanged()
    return file, {"name": name, "n_bytes": file.state[0], "sha256": sha256}
