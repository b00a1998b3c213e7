"""Text to token shards.

Owns `prepare`: reading, encoding (in several threads), writing, overlap of train and
validation, and the manifest that makes the result count. The bytes do not depend on the number
of workers, and nothing is visible under its final name before it is whole.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.documents import Document, Reader, expand_sources
from ladderlm.data.shards import (
    FORMAT_VERSION,
    SplitWriter,
    manifest_fingerprint,
    open_data,
    token_dtype,
)
from ladderlm.errors import DataError
from ladderlm.files import (
    FolderLock,
    check_free_space,
    move_into_place,
    publish,
    publish_json,
    remove_tree,
    sha256_file,
)
from ladderlm.tokenizer.base import Tokenizer, copy_tokenizer, load_tokenizer

__all__ = ["PrepareConfig", "prepare"]

_log = logging.getLogger(__name__)
CHUNK_DOCUMENTS = 256


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `prepare` reads and writes.

    Args:
        sources: corpus files or folders.
        tokenizer: folder of the tokenizer.
        out: data folder; splits already in it stay.
        split: name of the split; None: "train" and "val" from a source folder that has both.
        max_documents: take the first this many; None: all.
        n_workers: threads that encode.
        text_key, subset_key: dotted places in a record.
        skip_bad: leave out bad records and count them, instead of stopping.
        allow_overlap: accept documents that stand in train and val alike.
    """

    sources: tuple[str, ...]
    tokenizer: str
    out: str
    split: str | None = None
    max_documents: int | None = None
    n_workers: int = 2
    text_key: str = "text"
    subset_key: str = "meta.pile_set_name"
    skip_bad: bool = False
    allow_overlap: bool = False


def prepare(
    config: PrepareConfig, progress: Callable[[str, int], None] = lambda _split, _n: None
) -> dict[str, Any]:
    """Write or extend a data folder; give its manifest.

    A split whose request (sources by content, tokenizer, selection) is already there is left as
    it is, so a killed and repeated call ends with the same bytes as one that was not killed.

    Args:
        progress: told (split, documents done) now and then.

    Raises:
        DataError: bad input (file and line), another tokenizer in the folder, overlap.
    """
    out = Path(config.out)
    tokenizer = load_tokenizer(config.tokenizer)
    with FolderLock(out):
        manifest = _existing_manifest(out, tokenizer.fingerprint, config.tokenizer)
        plan = _plan_splits(config)
        requests = {name: _request(files, config) for name, files in plan.items()}
        done = {
            name
            for name, request in requests.items()
            if manifest["splits"].get(name, {}).get("request") == request
        }
        if done == set(requests):
            open_data(out)
            return manifest
        need = sum(s["n_bytes"] for r in requests.values() for s in r["sources"])
        check_free_space(out, need)
        _publish_tokenizer(out, Path(config.tokenizer))
        for name, files in plan.items():
            if name not in done:
                manifest["splits"][name] = _prepare_split(
                    out, name, files, requests[name], config, progress
                )
        manifest["tokenizer"] = {
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "folder": "tokenizer",
        }
        manifest["dtype"] = token_dtype(tokenizer.vocab_size).str
        manifest["overlap"] = _count_overlap(out, manifest["splits"], config.allow_overlap)
        manifest["fingerprint"] = manifest_fingerprint(manifest)
        publish_json(out / "manifest.json", manifest)
    return manifest


def _existing_manifest(out: Path, fingerprint: str, tokenizer: str) -> dict[str, Any]:
    if not (out / "manifest.json").exists():
        return {"kind": "ladderlm-data", "format_version": FORMAT_VERSION, "splits": {}}
    data = open_data(out)
    if data.tokenizer_fingerprint != fingerprint:
        raise DataError(
            f"{out} was prepared with another tokenizer than {tokenizer}",
            "splits of one folder must share their token ids",
            "choose another --out, or delete the folder to start over",
        )
    return data.manifest


def _plan_splits(config: PrepareConfig) -> dict[str, list[Path]]:
    """Say which files make which split."""
    if config.split is not None:
        if not config.split.isidentifier():
            raise DataError(f"--split {config.split!r}", "a split is named by letters and digits")
        return {config.split: expand_sources(config.sources)}
    plan: dict[str, list[Path]] = {}
    if len(config.sources) == 1 and Path(config.sources[0]).is_dir():
        files = expand_sources(config.sources)
        folder = Path(config.sources[0])
        for name in ("train", "val", "test"):
            inside = [
                file for file in files if file.relative_to(folder).parts[0].split(".")[0] == name
            ]
            if inside:
                plan[name] = inside
        unused = [file for file in files if not any(file in inside for inside in plan.values())]
        if plan and unused:
            names = ", ".join(str(file.relative_to(folder)) for file in unused[:5])
            _log.warning("left out, since they are named after no split: %s", names)
    return plan or {"train": expand_sources(config.sources)}


def _request(files: list[Path], config: PrepareConfig) -> dict[str, Any]:
    """Describe what makes a split what it is: sources by content, keys and selection."""
    sources = [
        {"name": file.name, "n_bytes": file.stat().st_size, "sha256": sha256_file(file)}
        for file in files
        if str(file) != "-"
    ]
    which = "all" if config.max_documents is None else f"the first {config.max_documents}"
    return {
        "sources": sources,
        "text_key": config.text_key,
        "subset_key": config.subset_key,
        "skip_bad": config.skip_bad,
        "documents": which,
        "stdin": any(str(file) == "-" for file in files),
    }


def _publish_tokenizer(out: Path, folder: Path) -> None:
    copy_tokenizer(folder, out / "tokenizer")


def _prepare_split(
    out: Path,
    name: str,
    files: list[Path],
    request: dict[str, Any],
    config: PrepareConfig,
    progress: Callable[[str, int], None],
) -> dict[str, Any]:
    tokenizer = load_tokenizer(config.tokenizer)
    staging = out / f".preparing-{name}"
    remove_tree(staging)
    writer = SplitWriter(staging, name, token_dtype(tokenizer.vocab_size))
    reader = Reader(
        files, text_key=config.text_key, subset_key=config.subset_key, skip_bad=config.skip_bad
    )
    documents: Iterable[Document] = islice(reader, config.max_documents)
    hashes: list[bytes] = []
    n_done = 0
    for tokens, n_bytes, digest, subset in _encode_all(documents, config):
        writer.add(tokens, n_bytes, subset)
        hashes.append(digest)
        n_done += 1
        if n_done % 1000 == 0:
            progress(name, n_done)
    progress(name, n_done)
    if n_done == 0:
        raise DataError(
            f"split {name!r} has no documents",
            f"its sources hold no usable record; left out: {dict(reader.skipped) or 'none'}",
            "check the files with `head`, or --text-key",
        )
    _check_unchanged(files, request)
    extra = {"skipped": dict(sorted(reader.skipped.items())), "request": request}
    entry = writer.finish(extra)
    entry["text_hashes"] = _publish_hashes(staging, name, hashes)
    _move_into_place(staging, out, entry)
    return entry


def _check_unchanged(files: list[Path], request: dict[str, Any]) -> None:
    named = [file for file in files if str(file) != "-"]
    for file, source in zip(named, request["sources"], strict=True):
        if file.stat().st_size != source["n_bytes"] or sha256_file(file) != source["sha256"]:
            raise DataError(
                f"{file} changed while it was read",
                "the shards would hold a mixture of two versions",
                "let it settle, then run the same command again",
            )


def _publish_hashes(folder: Path, name: str, hashes: list[bytes]) -> dict[str, Any]:
    """Keep 8 bytes of each text's hash, sorted, to count overlap with splits prepared later."""
    path = folder / f"{name}-texts.npy"
    array = np.sort(np.frombuffer(b"".join(hashes), dtype="<u8"))
    publish(path, lambda stream: np.save(stream, array, allow_pickle=False))
    return {"file": path.name, "n_bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _move_into_place(staging: Path, out: Path, entry: dict[str, Any]) -> None:
    """Publish finished files under their names; the manifest that counts comes after them."""
    for file in [*entry["shards"], entry["index"], entry["text_hashes"]]:
        move_into_place(staging / file["file"], out / file["file"])
    remove_tree(staging)


def _count_overlap(out: Path, splits: dict[str, Any], allowed: bool) -> dict[str, int]:
    """Count texts of each other split that stand, byte for byte, in train as well."""
    overlap: dict[str, int] = {}
    if "train" not in splits:
        return overlap
    train = np.load(out / splits["train"]["text_hashes"]["file"], allow_pickle=False)
    for name in sorted(set(splits) - {"train"}):
        other = np.load(out / splits[name]["text_hashes"]["file"], allow_pickle=False)
        overlap[f"train_{name}_exact"] = int(np.isin(other, train).sum())
        if overlap[f"train_{name}_exact"] and not allowed:
            raise DataError(
                f"{overlap[f'train_{name}_exact']} documents of {name!r} stand in 'train' as well",
                "a model is then scored on text that it was trained on",
                "take them out of the training text, or use --allow-overlap to record the count",
            )
    return overlap


_Encoded = tuple[NDArray[np.int64], int, bytes, str]


def _encode_all(documents: Iterable[Document], config: PrepareConfig) -> Iterator[_Encoded]:
    """Encode documents in order, with a few chunks under way in threads.

    tiktoken leaves Python's global lock while it works, so threads use all cores.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    under_way: deque[Future[list[_Encoded]]] = deque()
    with ThreadPoolExecutor(max(config.n_workers, 1)) as pool:
        for chunk in _chunks(documents):
            under_way.append(pool.submit(_encode_chunk, tokenizer, chunk))
            if len(under_way) > 2 * config.n_workers:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


def _chunks(documents: Iterable[Document]) -> Iterator[list[tuple[str, str]]]:
    """Group documents by number and size."""
    chunk: list[tuple[str, str]] = []
    n_chars = 0
    for document in documents:
        chunk.append((document.text, document.subset))
        n_chars += len(document.text)
        if len(chunk) >= CHUNK_DOCUMENTS or n_chars >= 1 << 20:
            yield chunk
            chunk, n_chars = [], 0
    if chunk:
        yield chunk


def _encode_chunk(tokenizer: Tokenizer, chunk: list[tuple[str, str]]) -> list[_Encoded]:
    encoded = []
    for text, subset in chunk:
        raw = text.encode("utf-8")
        tokens = np.array(tokenizer.encode(text, bos=True, eos=True), dtype=np.int64)
        encoded.append((tokens, len(raw), hashlib.sha256(raw).digest()[:8], subset))
    return encoded
