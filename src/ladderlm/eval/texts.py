"""Raw documents, for models whose tokens are not those of prepared data.

Owns where the text comes from (prepared data, whose tokens are decoded and proven to be the text,
or files as `prepare` reads them), and documents as another tokenizer cuts them. No torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.config import content_hash
from ladderlm.data.shards import PreparedData, Split, open_data
from ladderlm.errors import DataError
from ladderlm.eval.documents import check_split, known_texts, raw_texts, require_known, short_hash
from ladderlm.files import sha256_file
from ladderlm.tokenizer.load import load_tokenizer

__all__ = ["Encoded", "Texts", "describe_source", "encode_texts", "read_texts"]


@dataclass(frozen=True)
class Texts:
    """Documents as they were before any tokenizer saw them.

    Args:
        name: of the split, or the first file's without its endings.
        texts: one a document.
        subset_ids: index of each into `subset_names`.
        n_all: how many documents there are; None: the files were not read to their end.
        source: which files, by their hashes, as `describe_source` gives it.
    """

    name: str
    texts: list[str]
    subset_ids: NDArray[np.int64]
    subset_names: tuple[str, ...]
    n_all: int | None
    source: dict[str, Any]
    hashes: NDArray[np.uint64]

    @property
    def fingerprint(self) -> str:
        """Hash of what is scored: the same for the same texts, prepared in any way."""
        names = [self.subset_names[i] for i in self.subset_ids]
        return content_hash([self.hashes.tolist(), names])


@dataclass(frozen=True)
class Encoded:
    """Documents as token ids in memory, under the names of a `Split`."""

    name: str
    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    subset_ids: NDArray[np.int64]
    subset_names: tuple[str, ...]

    def tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return tokens start .. stop - 1."""
        return self.ids[start:stop]


def read_texts(
    place: Path | str, split: str, n_documents: int, check: Callable[[], None] = lambda: None
) -> Texts:
    """Read the first documents of prepared data, or of a corpus file or folder.

    Args:
        place: a folder with a manifest, or what `ladderlm prepare` reads.
        split: of prepared data, or by the names of files in a folder; a file has none.
        n_documents: at most this many.
        check: called before every document; may raise to stop early.

    Raises:
        DataError: neither of both, damaged, or tokens that do not stand for the text.
    """
    place = Path(place)
    if (place / "manifest.json").is_file():
        return _from_prepared(open_data(place), split, n_documents, check)
    # reading files needs packages that the bare runner does without
    from ladderlm.corpus.files import expand_sources, files_by_split

    named = files_by_split(place) if place.is_dir() else {}
    if named and split not in named:
        raise DataError(f"{place} has no split {split!r}", f"it has {', '.join(named)}", "name one")
    return _from_files(named.get(split) or expand_sources([place]), n_documents, check)


def _from_prepared(
    data: PreparedData, name: str, n_documents: int, check: Callable[[], None]
) -> Texts:
    split = data.split(name)
    check_split(split, data.manifest["splits"][name])
    ids = np.arange(min(n_documents, split.n_documents))
    raw = list(raw_texts(split, ids, load_tokenizer(data.tokenizer_folder), check))
    hashes = np.array([short_hash(text) for text in raw], dtype=np.uint64)
    require_known(split, ids, hashes, known_texts(data, split))
    return Texts(
        name=name,
        texts=[text.decode("utf-8") for text in raw],
        subset_ids=split.subset_ids[ids],
        subset_names=split.subset_names,
        n_all=split.n_documents,
        source=describe_source(data, split),
        hashes=hashes,
    )


def _from_files(files: list[Path], n_documents: int, check: Callable[[], None]) -> Texts:
    from ladderlm.corpus.documents import Reader  # as above

    texts: list[str] = []
    subsets: list[str] = []
    whole = True
    for document in Reader(files):
        check()
        if len(texts) == n_documents:
            whole = False
            break
        texts.append(document.text)
        subsets.append(document.subset)
    if not texts:
        raise DataError(f"{files[0]} holds no documents", "there is nothing to score", "")
    place_of = {name: i for i, name in enumerate(sorted(set(subsets)))}
    on_disk = [path for path in files if str(path) != "-"]
    return Texts(
        name=(on_disk[0].name if on_disk else "stdin").split(".")[0],
        texts=texts,
        subset_ids=np.array([place_of[subset] for subset in subsets], dtype=np.int64),
        subset_names=tuple(place_of),
        n_all=len(texts) if whole else None,
        source={
            "files": [{"name": path.name, "sha256": sha256_file(path)} for path in on_disk],
            "tokenizer": None,
            "overlap_with_train": None,
        },
        hashes=np.array([short_hash(text.encode()) for text in texts], dtype=np.uint64),
    )


def describe_source(data: PreparedData, split: Split) -> dict[str, Any]:
    """Return which text a split is, by the hashes of its files, and how much of it is in train."""
    entry, overlap = data.manifest["splits"][split.name], data.manifest.get("overlap") or {}
    return {
        "files": (entry.get("request") or {}).get("sources", []),
        "tokenizer": data.tokenizer_fingerprint,
        "overlap_with_train": overlap.get(f"train_{split.name}_exact"),
    }


def encode_texts(texts: Texts, documents: Sequence[Sequence[int]]) -> Encoded:
    """Lay the token ids of the texts one after the other.

    Args:
        documents: ids of each text, with what begins and ends a document.
    """
    lengths = [len(ids) for ids in documents]
    return Encoded(
        name=texts.name,
        ids=np.fromiter((i for ids in documents for i in ids), dtype=np.int64, count=sum(lengths)),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        n_bytes=np.array([len(text.encode()) for text in texts.texts], dtype=np.int64),
        subset_ids=texts.subset_ids,
        subset_names=texts.subset_names,
    )
