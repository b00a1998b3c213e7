"""`ladderlm fetch`: get a corpus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ladderlm.cli.options import parse, print_json, progress_bar
from ladderlm.data.local import MIN_CORPUS_BYTES, fetch_local
from ladderlm.data.pile import fetch_pile
from ladderlm.errors import ConfigError
from ladderlm.units import format_bytes

__all__ = ["run"]


@dataclass(frozen=True)
class FetchOptions:
    """Get a corpus of `.jsonl.zst` files."""

    corpus: Annotated[Literal["local", "pile"], tyro.conf.Positional]
    """local: text of the Python packages installed here, no download; pile: the Pile."""
    out: str
    """Folder to write to."""
    split: str = "val"
    """Of the Pile: train, val or test."""
    shards: str = "0"
    """Of the Pile's train split: numbers from 0 to 29, with commas. Each has about 14 GB."""
    source: str | None = None
    """Of the Pile: a known source, a URL or a folder. Default: the known sources in turn."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print corpus.json or pile.json."""


def run(argv: list[str]) -> int:
    """Fetch as asked."""
    options = parse(FetchOptions, argv, "fetch", "Get a corpus.")
    if options.corpus == "pile":
        return _fetch_pile(options)
    corpus = fetch_local(Path(options.out))
    if options.json:
        print_json(corpus)
    else:
        _describe(corpus, options.out)
    return 0


def _fetch_pile(options: FetchOptions) -> int:
    try:
        shards = tuple(int(word) for word in options.shards.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--shards {options.shards!r}", "it is a list of numbers", "write 0 or 0,1,2"
        ) from error
    with progress_bar("bytes") as bar:

        def progress(name: str, done: int, total: int | None) -> None:
            of = f" of {format_bytes(total)}" if total else ""
            bar(done, f"{name}{of}")

        record = fetch_pile(Path(options.out), options.split, shards, options.source, progress)
    if options.json:
        print_json(record)
        return 0
    for name, file in record["files"].items():
        size, digest = format_bytes(file["n_bytes"]), file["sha256"][:16]
        print(f"{options.out}/{name}: {size}, SHA-256 {digest}... ({file['note']})")
    return 0


def _describe(corpus: dict[str, Any], out: str) -> None:
    size = format_bytes(corpus["n_bytes"])
    print(f"{out}: {size} of text, fingerprint {corpus['fingerprint'][:12]}")
    for name, split in corpus["splits"].items():
        print(f"  {name}: {split['n_documents']:,} documents, {format_bytes(split['n_bytes'])}")
        for subset, counts in split["subsets"].items():
            size = format_bytes(counts["n_bytes"])
            print(f"    {subset:<20} {counts['n_documents']:>6,} documents  {size:>8}")
    for name, package in corpus["packages"].items():
        if package["status"] != "as pinned":
            print(f"  note: package {name}: {package['status']}")
    if corpus["n_bytes"] < MIN_CORPUS_BYTES:
        print(f"  note: less than the usual {format_bytes(MIN_CORPUS_BYTES)}; results will differ")
