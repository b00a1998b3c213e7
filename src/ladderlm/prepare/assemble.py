"""Encoded pieces to the files of one split.

Owns what looks at the documents of a split together and in order: the limits, the removal of
exact duplicates, the count of near ones, and the sorted hashes for the overlap with other
splits. Memory is that of a few pieces and a share of the keys, plus one byte per document.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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

__all__ = ["Selection", "assemble"]


@dataclass(frozen=True)
class Selection:
    """Which documents of a split are kept, and what is counted.

    Args:
        limits: how much is taken from the beginning, before duplicates are removed.
        remove_duplicates: leave out every document whose text stood earlier.
        count_near: count documents that share a MinHash key with an earlier one.
    """

    limits: SourceLimits
    remove_duplicates: bool
    count_near: bool


def assemble(
    folder: Path,
    prefix: str,
    dtype: np.dtype[Any],
    pieces: Iterable[tuple[int, Path]],
    selection: Selection,
    n_files: int,
) -> dict[str, Any]:
    """Write the shards, index and hash files of one split; return its entry for the manifest.

    Args:
        folder: where the files go, and temporary ones meanwhile.
        prefix: what their names begin with.
        dtype: of the tokens.
        pieces: (number of the source file, path), in the order of the documents.
        selection: which documents are kept.
        n_files: how many source files there are.

    Raises:
        DataError: a piece that is missing or damaged, or no documents at all.
    """
    limits = selection.limits
    paths = _until_limit(pieces, limits)
    drop = near = None
    if selection.remove_duplicates or selection.count_near:
        paths = list(paths)  # they are read more than once
    if selection.remove_duplicates:
        drop = _repeated(folder / "keys", paths, limits, lambda piece: piece.exact)
    if selection.count_near:
        for band in range(N_BANDS):
            again = _repeated(
                folder / f"band-{band}", paths, limits, lambda piece, b=band: piece.bands[:, b]
            )
            near = again if near is None else near | again
    writer = SplitWriter(folder, prefix, dtype)
    tables = {kind: KeyTable(folder / f"keys-{kind}") for kind in KINDS}
    tally = _Tally(n_files)
    at = 0
    for file, piece in _read_within(paths, limits):
        tally.add(file, piece)
        if drop is not None:
            piece = _keep_documents(piece, ~drop[at : at + piece.n_documents])
        at = tally.n_documents
        columns = (piece.tokens, piece.n_tokens, piece.n_bytes, piece.subset_ids)
        writer.add_documents(*columns, piece.subset_names)
        for kind in KINDS:
            tables[kind].add(getattr(piece, kind))
    if at == 0:
        raise DataError(
            f"split {prefix.split('-')[0]!r} has no documents",
            f"its sources hold no usable record; left out: {dict(tally.skipped) or 'none'}",
            "check the files with `head`, or --text-key, or a larger limit",
        )
    hashes, repeats = {}, {}
    for kind, table in tables.items():
        path = folder / f"{prefix}-texts-{kind}.npy"
        hashes[kind], repeats[kind] = write_hashes(path, table.sorted_keys())
    removed = 0 if drop is None else int(drop.sum())
    duplicates: dict[str, Any] = {
        "exact_removed": removed,
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
        {"text_hashes": hashes, "duplicates": duplicates, **tally.entry()},
    )


def _until_limit(
    pieces: Iterable[tuple[int, Path]], limits: SourceLimits
) -> Iterable[tuple[int, Path]]:
    """Return the pieces up to the one in which a limit is met."""
    sizes = [0, 0, 0]
    for file, path in pieces:
        yield file, path
        if limits != SourceLimits():
            sizes = [a + b for a, b in zip(sizes, piece_sizes(path), strict=True)]
            if limits.met(sizes):
                return


def _read_ahead(paths: Iterable[tuple[int, Path]]) -> Iterator[tuple[int, EncodedPiece]]:
    """Read and check each piece while the one before is used."""
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
    """Read pieces, the last one cut where a limit is met."""
    done = np.zeros(3, np.int64)  # documents, bytes, tokens
    most = [np.iinfo(np.int64).max if limit is None else limit for limit in limits.each]
    for file, piece in _read_ahead(paths):
        ones = np.ones(piece.n_documents, np.int64)
        fits = np.ones(piece.n_documents, bool)
        for i, sizes in enumerate((ones, piece.n_bytes, piece.n_tokens)):
            fits &= done[i] + np.cumsum(sizes) <= most[i]
            done[i] += sizes.sum()
        if fits.all():
            yield file, piece
        else:
            yield file, _keep_documents(piece, fits)
            return


def _keep_documents(piece: EncodedPiece, keep: NDArray[np.bool_]) -> EncodedPiece:
    if keep.all():
        return piece
    return EncodedPiece(
        tokens=piece.tokens[np.repeat(keep, piece.n_tokens)],
        n_tokens=piece.n_tokens[keep],
        n_bytes=piece.n_bytes[keep],
        subset_ids=piece.subset_ids[keep],
        exact=piece.exact[keep],
        folded=piece.folded[keep],
        bands=piece.bands[keep],
        subset_names=piece.subset_names,
        skipped=piece.skipped,
        examples=piece.examples,
    )


def _repeated(
    folder: Path, paths: Iterable[tuple[int, Path]], limits: SourceLimits, keys: Any
) -> NDArray[np.bool_]:
    table = KeyTable(folder)
    for _, piece in _read_within(paths, limits):
        table.add(keys(piece))
    return table.repeated()


class _Tally:
    """What was read from each source, and what was left out."""

    def __init__(self, n_files: int) -> None:
        self.sizes = np.zeros((n_files, 2), np.int64)
        self.skipped: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, file: int, piece: EncodedPiece) -> None:
        self.sizes[file] += (piece.n_documents, int(piece.n_bytes.sum()))
        self.skipped += piece.skipped
        self.examples += piece.examples[: N_EXAMPLES - len(self.examples)]

    @property
    def n_documents(self) -> int:
        return int(self.sizes[:, 0].sum())

    def entry(self) -> dict[str, Any]:
        """Return documents and bytes of text taken from each source, before duplicates went."""
        taken = [{"n_documents": d, "n_bytes": b} for d, b in self.sizes.tolist()]
        skipped = dict(sorted(self.skipped.items()))
        return {"taken": taken, "skipped": skipped, "skipped_examples": self.examples}
