"""Assemble encoded pieces into the files of one split.

Owns the steps that need the documents of a split together and in order: the limits, the removal
of exact duplicates, the count of near ones, and the sorted hashes for the overlap with other
splits. Memory holds a few pieces and a share of the keys, plus one byte per document.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.shard_writer import SplitWriter
from ladderlm.errors import DataError
from ladderlm.prepare.dedup import KeyTable
from ladderlm.prepare.encoded_piece import N_EXAMPLES, EncodedPiece, piece_sizes, read_piece
from ladderlm.prepare.encoding import SourceLimits
from ladderlm.prepare.minhash import N_BANDS, N_ROWS, SHINGLE_TOKENS
from ladderlm.prepare.overlap import KINDS, write_hashes

__all__ = ["assemble"]


def assemble(
    folder: Path,
    prefix: str,
    dtype: np.dtype[Any],
    pieces: Iterable[tuple[int, Path]],
    request: dict[str, Any],
) -> dict[str, Any]:
    """Write the shards, index and hash files of one split; return its entry for the manifest.

    Args:
        folder: where to put the files, and temporary ones.
        prefix: of the names of the files.
        dtype: of the tokens.
        pieces: (number of the source file, path), in the order of the documents.
        request: the record of the split's `SplitRequest`.

    Raises:
        DataError: a piece is missing or damaged, or there are no documents.
    """
    which = str(request["documents"])
    limits = SourceLimits(
        max_documents=None if which == "all" else int(which.rsplit(" ", 1)[1]),
        max_tokens=request["max_tokens"],
        max_bytes=request["max_bytes"],
    )
    remove_duplicates, count_near = request["dedup"] == "exact", request["near_duplicates"]
    paths = _until_limit(pieces, limits)
    drop = near = None
    if remove_duplicates or count_near:
        paths = list(paths)  # they are read more than once
    if remove_duplicates:
        drop = _repeated(folder / "keys", paths, limits, lambda piece: piece.exact)
    if count_near:
        for band in range(N_BANDS):
            again = _repeated(
                folder / f"band-{band}", paths, limits, lambda piece, b=band: piece.bands[:, b]
            )
            near = again if near is None else near | again
    writer = SplitWriter(folder, prefix, dtype)
    tables = {kind: KeyTable(folder / f"keys-{kind}") for kind in KINDS}
    taken = np.zeros(
        (len(request["sources"]), 2), np.int64
    )  # documents and bytes before duplicates are removed
    skipped: Counter[str] = Counter()
    examples: list[str] = []
    end = 0
    for file, piece in _read_within(paths, limits):
        taken[file] += piece.sizes[:2]
        skipped += piece.skipped
        examples += piece.examples[: N_EXAMPLES - len(examples)]
        start, end = end, end + piece.n_documents
        if drop is not None:
            piece = piece.keep(~drop[start:end])
        columns = (piece.tokens, piece.n_tokens, piece.n_bytes, piece.subset_ids)
        writer.add_documents(*columns, piece.subset_names)
        for kind in KINDS:
            tables[kind].add(getattr(piece, kind))
    if end == 0:
        raise DataError(
            f"split {prefix.split('-')[0]!r} has no documents",
            f"its sources hold no usable record; skipped: {dict(skipped) or 'none'}",
            "check the files with `head`, or --text-key, or a larger limit",
        )
    hashes, repeats = {}, {}
    for kind, table in tables.items():
        path = folder / f"{prefix}-texts-{kind}.npy"
        hashes[kind], repeats[kind] = write_hashes(path, table.sorted_keys())
    duplicates: dict[str, Any] = {
        "exact_removed": 0 if drop is None else int(drop.sum()),
        "exact_kept": repeats["exact"],
        "folded_kept": repeats["folded"],
    }
    if near is not None:
        duplicates["near"] = {
            "n_documents": int(near.sum() if drop is None else (near & ~drop).sum()),
            "method": "MinHash of token shingles; counted if a band is that of an earlier document",
            "shingle_tokens": SHINGLE_TOKENS,
            "bands": N_BANDS,
            "rows": N_ROWS,
        }
    return writer.finish(
        {
            "text_hashes": hashes,
            "duplicates": duplicates,
            "taken": [{"n_documents": d, "n_bytes": b} for d, b in taken.tolist()],
            "skipped": dict(sorted(skipped.items())),
            "skipped_examples": examples,
        }
    )


def _until_limit(
    pieces: Iterable[tuple[int, Path]], limits: SourceLimits
) -> Iterable[tuple[int, Path]]:
    """Return the pieces up to the one in which a limit is reached."""
    sizes = [0, 0, 0]
    for file, path in pieces:
        yield file, path
        if limits != SourceLimits():
            sizes = [a + b for a, b in zip(sizes, piece_sizes(path), strict=True)]
            if limits.met(sizes):
                return


def _read_ahead(paths: Iterable[tuple[int, Path]]) -> Iterator[tuple[int, EncodedPiece]]:
    """Read and check each piece while the previous one is used."""
    with ThreadPoolExecutor(1) as reader:
        before: tuple[int, Future[EncodedPiece]] | None = None
        for file, path in paths:
            coming = reader.submit(read_piece, path)
            if before is not None:
                yield before[0], before[1].result()
            before = file, coming
        if before is not None:
            yield before[0], before[1].result()


def _read_within(
    paths: Iterable[tuple[int, Path]], limits: SourceLimits
) -> Iterator[tuple[int, EncodedPiece]]:
    """Read pieces, the last one cut where a limit is reached."""
    done = np.zeros(3, np.int64)  # documents, bytes, tokens
    most = [np.iinfo(np.int64).max if limit is None else limit for limit in limits.each]
    for file, piece in _read_ahead(paths):
        ones = np.ones(piece.n_documents, np.int64)
        fits = np.ones(piece.n_documents, bool)
        for i, sizes in enumerate((ones, piece.n_bytes, piece.n_tokens)):
            fits &= done[i] + np.cumsum(sizes) <= most[i]
            done[i] += sizes.sum()
        yield file, piece.keep(fits)
        if not fits.all():
            return


def _repeated(
    folder: Path, paths: Iterable[tuple[int, Path]], limits: SourceLimits, keys: Any
) -> NDArray[np.bool_]:
    table = KeyTable(folder)
    for _, piece in _read_within(paths, limits):
        table.add(keys(piece))
    return table.repeated()
