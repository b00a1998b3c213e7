"""Encoded pieces of a corpus, which workers write and `assemble` reads.

Owns the encoding of a block of documents into columns, and the file format of a piece.
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.corpus.documents import Parsed
from ladderlm.errors import DataError
from ladderlm.files import publish_stream
from ladderlm.prepare.minhash import N_BANDS, band_keys
from ladderlm.tokenizer.base import Tokenizer

__all__ = [
    "N_EXAMPLES",
    "EncodedPiece",
    "encode_documents",
    "join_pieces",
    "piece_sizes",
    "read_piece",
    "write_piece",
]

N_EXAMPLES = 20
_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")
_WHITE = b" \t\n\r\v\f"
_MAGIC = b"ladderlm piece 1\n"
_COLUMNS = {
    "n_tokens": "<i8",
    "n_bytes": "<i8",
    "subset_ids": "<i8",
    "exact": "<u8",
    "folded": "<u8",
    "bands": "<u8",
}


@dataclass(frozen=True)
class EncodedPiece:
    """Encoded documents, column by column; n documents, t tokens.

    Args:
        tokens: (t,) uint16 or uint32, every document with its BOS and EOS.
        n_tokens, n_bytes: (n,) int64, of each document; bytes of its raw text.
        subset_ids: (n,) int64, into `subset_names`.
        exact: (n,) uint64, first 8 bytes of the SHA-256 of each text.
        folded: (n,) uint64, likewise with ASCII letters in lower case and white space removed.
        bands: (n, N_BANDS) uint64, MinHash keys; (n, 0) unless near duplicates are counted.
        subset_names: in the order of their first document.
        skipped: number of records skipped for each reason.
        examples: descriptions of the first of them.
    """

    tokens: NDArray[Any]
    n_tokens: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    subset_ids: NDArray[np.int64]
    exact: NDArray[np.uint64]
    folded: NDArray[np.uint64]
    bands: NDArray[np.uint64]
    subset_names: tuple[str, ...]
    skipped: Counter[str]
    examples: tuple[str, ...]

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.n_tokens)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Documents, bytes of text and tokens."""
        return self.n_documents, int(self.n_bytes.sum()), len(self.tokens)

    def keep(self, mask: NDArray[np.bool_]) -> "EncodedPiece":
        """Return the piece with the documents where `mask` is true: (n,)."""
        if mask.all():
            return self
        columns = {name: getattr(self, name)[mask] for name in _COLUMNS}
        return replace(self, tokens=self.tokens[np.repeat(mask, self.n_tokens)], **columns)


def encode_documents(
    parsed: Parsed, tokenizer: Tokenizer, dtype: np.dtype[Any], near: bool = False
) -> EncodedPiece:
    """Encode the documents of a block into tokens of a dtype.

    Args:
        near: compute the MinHash keys too.

    Raises:
        DataError: the tokenizer returned an id outside its vocabulary.
    """
    raws = [text.encode("utf-8") for text in parsed.texts]
    encoded = tokenizer.encode_batch(parsed.texts)
    n_tokens = np.fromiter(map(len, encoded), np.int64, len(encoded)) + 2
    ends = np.cumsum(n_tokens)
    tokens = np.empty(int(n_tokens.sum()), np.result_type(np.uint32, *encoded[:1]))
    tokens[ends - n_tokens], tokens[ends - 1] = tokenizer.bos_id, tokenizer.eos_id
    for ids, end in zip(encoded, ends.tolist(), strict=True):
        tokens[end - 1 - len(ids) : end - 1] = ids
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < tokenizer.vocab_size):
        raise DataError(
            f"the tokenizer returned ids {tokens.min()}..{tokens.max()} for a vocabulary of "
            f"{tokenizer.vocab_size}",
            fix="train or fetch the tokenizer again",
        )
    tokens = tokens.astype(dtype)
    names = {name: i for i, name in enumerate(dict.fromkeys(parsed.subsets))}
    return EncodedPiece(
        tokens=tokens,
        n_tokens=n_tokens,
        n_bytes=np.fromiter(map(len, raws), np.int64, len(raws)),
        subset_ids=np.fromiter(map(names.__getitem__, parsed.subsets), np.int64, len(raws)),
        exact=_hashes(raws),
        folded=_hashes([raw.translate(_FOLD, _WHITE) for raw in raws]),
        bands=band_keys(tokens, n_tokens) if near else np.empty((len(raws), 0), np.uint64),
        subset_names=tuple(names),
        skipped=parsed.skipped,
        examples=tuple(parsed.examples),
    )


def _hashes(raws: Sequence[bytes]) -> NDArray[np.uint64]:
    sha256 = hashlib.sha256
    joined = b"".join([sha256(raw).digest() for raw in raws])
    return np.frombuffer(joined, "<u8")[::4].astype(np.uint64)


def join_pieces(pieces: Sequence[EncodedPiece]) -> EncodedPiece:
    """Return the concatenation of one or more pieces."""
    unique = dict.fromkeys(name for p in pieces for name in p.subset_names)
    names = {name: i for i, name in enumerate(unique)}
    ids = [np.array([names[n] for n in p.subset_names], np.int64)[p.subset_ids] for p in pieces]
    columns = {
        name: np.concatenate([getattr(p, name) for p in pieces]) for name in ("tokens", *_COLUMNS)
    }
    return EncodedPiece(
        **columns | {"subset_ids": np.concatenate(ids)},
        subset_names=tuple(names),
        skipped=sum((p.skipped for p in pieces), Counter[str]()),
        examples=tuple(e for p in pieces for e in p.examples)[:N_EXAMPLES],
    )


def write_piece(path: Path, piece: EncodedPiece) -> None:
    """Publish a piece: one line of JSON with the SHA-256 of the columns, then the columns."""
    parts = [piece.tokens.tobytes()]
    parts += [getattr(piece, name).astype(dtype).tobytes() for name, dtype in _COLUMNS.items()]
    n_documents, n_all_bytes, n_all_tokens = piece.sizes
    header = {
        "dtype": piece.tokens.dtype.str,
        "n_all_tokens": n_all_tokens,
        "n_all_bytes": n_all_bytes,
        "n_documents": n_documents,
        "n_bands": piece.bands.shape[1],
        "subset_names": piece.subset_names,
        "skipped": dict(sorted(piece.skipped.items())),
        "examples": piece.examples,
    }
    digest = hashlib.sha256(json.dumps(header).encode())
    for part in parts:
        digest.update(part)
    with publish_stream(path) as stream:
        stream.write(_MAGIC)
        stream.write(json.dumps({"sha256": digest.hexdigest(), "header": header}).encode() + b"\n")
        stream.writelines(parts)


@contextlib.contextmanager
def _open_piece(path: Path) -> Iterator[tuple[Any, IO[bytes]]]:
    """Open a piece; return its parsed first line and the stream of its columns."""
    try:
        with path.open("rb") as stream:
            if stream.readline(len(_MAGIC)) != _MAGIC:
                raise ValueError("it is not a piece")
            yield json.loads(stream.readline(1 << 26)), stream
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be used: {error}",
            fix="delete the file and run the command that made it again: it makes only what is "
            "missing",
        ) from error


def piece_sizes(path: Path) -> tuple[int, int, int]:
    """Return documents, bytes of text and tokens of a piece, without checking its columns.

    Raises:
        DataError: the file is missing, or not a piece.
    """
    with _open_piece(path) as (lead, _):
        header = lead["header"]
        return header["n_documents"], header["n_all_bytes"], header["n_all_tokens"]


def read_piece(path: Path) -> EncodedPiece:
    """Read a piece and check it.

    Raises:
        DataError: the file is missing, cut short or changed.
    """
    with _open_piece(path) as (lead, stream):
        header, body = lead["header"], stream.read()
        digest = hashlib.sha256(json.dumps(header).encode())
        digest.update(body)
        if digest.hexdigest() != lead["sha256"]:
            raise ValueError("its SHA-256 is not the recorded one")
    n, n_bands = header["n_documents"], header["n_bands"]
    assert n_bands in (0, N_BANDS)  # the hash has been checked
    tokens = np.frombuffer(body, np.dtype(header["dtype"]), header["n_all_tokens"])
    at = tokens.nbytes
    columns: dict[str, NDArray[Any]] = {}
    for name, kind in _COLUMNS.items():
        columns[name] = np.frombuffer(body, kind, n * n_bands if name == "bands" else n, at)
        at += columns[name].nbytes
    columns["bands"] = columns["bands"].reshape(n, n_bands)
    return EncodedPiece(
        tokens=tokens,
        **columns,
        subset_names=tuple(header["subset_names"]),
        skipped=Counter(header["skipped"]),
        examples=tuple(header["examples"]),
    )
