"""`ladderlm fetch`: get a corpus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ladderlm.cli.options import parse, print_json
from ladderlm.cli.transfers import show_transfers
from ladderlm.data.head import HeadLimits
from ladderlm.data.local import MIN_CORPUS_BYTES, fetch_local
from ladderlm.data.pile import PileRequest, fetch_pile
from ladderlm.errors import ConfigError
from ladderlm.units import format_bytes, parse_bytes

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
    max_bytes: str | None = None
    """Of the Pile: take only the head of each file, up to so many bytes of text, e.g. 500MB."""
    max_documents: int | None = None
    """Of the Pile: take only the head of each file, up to so many documents."""
    source: str | None = None
    """Of the Pile: a known source, a URL or a folder. Default: the known sources in turn."""
    jobs: int = 4
    """Of the Pile: files on their way at once."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print corpus.json or pile.json."""


def run(argv: list[str]) -> int:
    """Fetch as asked."""
    options = parse(FetchOptions, argv, "fetch", "Get a corpus.")
    if options.corpus == "pile":
        return _fetch_pile(options)
    if options.max_bytes is not None or options.max_documents is not None:
        raise ConfigError(
            "--max-bytes and --max-documents are options of the Pile",
            "the local corpus is always whole, so that its fingerprint can be compared",
            "leave them out; `ladderlm prepare` takes --max-documents",
        )
    corpus = fetch_local(Path(options.out))
    if options.json:
        print_json(corpus)
    else:
        _print_corpus(corpus, options.out)
    return 0


def _fetch_pile(options: FetchOptions) -> int:
    try:
        shards = tuple(int(word) for word in options.shards.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--shards {options.shards!r}", "it is a list of numbers", "write 0 or 0,1,2"
        ) from error
    limits = HeadLimits(
        None if options.max_bytes is None else parse_bytes(options.max_bytes),
        options.max_documents,
    )
    with show_transfers() as (progress, say):
        record = fetch_pile(
            Path(options.out),
            PileRequest(options.split, shards, options.source, limits, options.jobs),
            progress=progress,
            say=say,
        )
    if options.json:
        print_json(record)
        return 0
    for name, file in record["files"].items():
        _describe_file(f"{options.out}/{name}", file)
    return 0


def _describe_file(path: str, file: dict[str, Any]) -> None:
    """Say what a file is and how far it is known to be what it should be."""
    checked = file.get("checksum_from")
    how = f"as in {checked}" if checked else "recorded, no list to check it against"
    print(f"{path}: {format_bytes(file['n_bytes'])} from {file['source']} ({file['note']})")
    if file["part"] == "head":
        head = file["head"]
        which = "all" if head["whole_source"] else "the first"
        size = format_bytes(head["source_byte_range"][1])
        if head["source_n_bytes"] and not head["whole_source"]:
            size = f"the first {size} of {format_bytes(head['source_n_bytes'])}"
        text = format_bytes(head["text_bytes"])
        print(f"  {which} {head['documents']:,} documents: {text} of text, out of {size}")
        how = "recorded"
    print(f"  SHA-256 {file['sha256']} ({how})")


def _print_corpus(corpus: dict[str, Any], out: str) -> None:
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
