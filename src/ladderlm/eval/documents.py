"""Prove that the denominator is the raw text.

Owns the comparison of tokens, document index and manifest: every document's tokens stand for as
many bytes as its raw text had, and for the very text that was prepared. No torch.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.shards import PreparedData, Split
from ladderlm.errors import DataError
from ladderlm.tokenizer.base import Tokenizer

__all__ = [
    "check_split",
    "hash_texts",
    "known_texts",
    "raw_texts",
    "require_known",
    "short_hash",
]


def check_split(split: Split, entry: dict[str, Any]) -> None:
    """Compare the bytes of the document index with the manifest, in all and per subset.

    Args:
        entry: the split's part of the manifest.

    Raises:
        DataError: they differ.
    """
    found = {"the split": (split.n_documents, int(split.n_bytes.sum()))}
    stated = {"the split": (entry["n_documents"], entry["n_bytes"])}
    n_documents = np.bincount(split.subset_ids, minlength=len(split.subset_names))
    n_bytes = np.zeros(len(split.subset_names), dtype=np.int64)
    np.add.at(n_bytes, split.subset_ids, split.n_bytes)
    for i, name in enumerate(split.subset_names):
        found[f"subset {name!r}"] = (int(n_documents[i]), int(n_bytes[i]))
    for name, counts in entry["subsets"].items():
        stated[f"subset {name!r}"] = (counts["n_documents"], counts["n_bytes"])
    if found != stated:
        wrong = next(k for k in found | stated if found.get(k) != stated.get(k))
        raise _not_the_text(
            f"{split.name}: the index gives {wrong} (documents, bytes) {found.get(wrong)}, "
            f"the manifest {stated.get(wrong)}"
        )


def known_texts(data: PreparedData, split: Split) -> NDArray[np.uint64] | None:
    """Read the sorted hashes of the raw texts that `prepare` kept; None if it kept none."""
    entry = data.manifest["splits"][split.name].get("text_hashes")
    if not entry:
        return None
    path = data.path / entry.get("exact", entry)["file"]
    try:
        hashes = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}", "", "prepare the data again") from error
    return hashes if len(hashes) else None


def raw_texts(
    split: Split,
    document_ids: NDArray[np.int64],
    tokenizer: Tokenizer,
    check: Callable[[], None] = lambda: None,
) -> Iterator[bytes]:
    """Decode documents one by one, each proven to have as many bytes as its raw text had.

    Args:
        document_ids: which, in this order.
        tokenizer: of the data.
        check: called before every document; may raise to stop early.

    Raises (while iterating):
        DataError: a document's tokens are not its text; names the document.
    """
    controls = [tokenizer.bos_id, tokenizer.eos_id]
    for index in document_ids.tolist():
        check()
        ids = split.document(index).tolist()
        text = tokenizer.decode_bytes(ids[1:-1])
        if [ids[0], ids[-1]] != controls or not set(controls).isdisjoint(ids[1:-1]):
            raise _not_the_text(
                f"document {index} of {split.name} is not BOS, a text without control ids, EOS"
            )
        if len(text) != split.n_bytes[index]:
            raise _not_the_text(
                f"document {index} of {split.name}: its tokens stand for {len(text)} bytes, "
                f"its raw text had {split.n_bytes[index]}"
            )
        yield text


def hash_texts(
    split: Split,
    document_ids: NDArray[np.int64],
    tokenizer: Tokenizer,
    known: NDArray[np.uint64] | None = None,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.uint64]:
    """Decode documents, compare their length and hash with those of the raw text.

    Args:
        document_ids: which, in this order in the result.
        tokenizer, check: see `raw_texts`.
        known: see `require_known`.

    Returns:
        The first 8 bytes of each text's SHA-256: two evaluations with equal hashes were made on
        identical bytes, with any tokenizers.

    Raises:
        DataError: a document's tokens are not its text; names the document.
    """
    texts = raw_texts(split, document_ids, tokenizer, check)
    hashes = np.fromiter(map(short_hash, texts), dtype=np.uint64, count=len(document_ids))
    require_known(split, document_ids, hashes, known)
    return hashes


def short_hash(text: bytes) -> int:
    """Return the first 8 bytes of a text's SHA-256 as a number."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def require_known(
    split: Split,
    document_ids: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    known: NDArray[np.uint64] | None,
) -> None:
    """Require the texts to be some of those that were prepared.

    Args:
        hashes: of the documents, from `short_hash`.
        known: from `known_texts`; None: there is nothing to compare with.

    Raises:
        DataError: names the first document that is another text.
    """
    if known is None:
        return
    nearest = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    wrong = np.flatnonzero(known[nearest] != hashes)
    if len(wrong):
        raise _not_the_text(
            f"document {document_ids[wrong[0]]} of {split.name}: its tokens stand for another "
            "text than was prepared"
        )


def _not_the_text(what: str) -> DataError:
    return DataError(
        what,
        "bits per byte divides by the bytes of the raw text, so the tokens must stand for all of "
        "it and nothing else",
        "run `ladderlm verify DATA`, then prepare the data again",
    )
