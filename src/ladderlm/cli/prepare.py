"""`ladderlm prepare`: text to token shards."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, print_json, printable, progress_bar
from ladderlm.data.prepare import PrepareConfig, prepare
from ladderlm.errors import ConfigError
from ladderlm.units import format_bytes, format_count

__all__ = ["describe_data", "run"]


@dataclass(frozen=True)
class PrepareOptions:
    """Encode a corpus into verified token shards."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
    """.jsonl[.zst|.gz] or .txt files, folders of them, or - for standard input."""
    tokenizer: str
    """Tokenizer folder."""
    out: str
    """Data folder to write or extend."""
    split: str | None = None
    """Name of the split. Default: train and val at once from a folder that holds both."""
    max_documents: int | None = None
    """Take the first this many documents of each split."""
    workers: int = 2
    """Threads that encode; the bytes written do not depend on it."""
    text_key: str = "text"
    """Where a record's text is."""
    subset_key: str = "meta.pile_set_name"
    """Where a record's subset is."""
    skip_bad: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out bad records and count them instead of stopping."""
    allow_overlap: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Accept validation documents that stand in train as well."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the manifest."""


def run(argv: list[str]) -> int:
    """Prepare as asked."""
    options = parse(PrepareOptions, argv, "prepare", "Encode a corpus into token shards.")
    if not options.sources:
        raise ConfigError("no SOURCE is named", "", "name corpus files or folders, or - for stdin")
    if options.workers < 1 or (options.max_documents is not None and options.max_documents < 1):
        raise ConfigError("--workers and --max-documents are at least 1")
    config = PrepareConfig(
        sources=options.sources,
        tokenizer=options.tokenizer,
        out=options.out,
        split=options.split,
        max_documents=options.max_documents,
        n_workers=options.workers,
        text_key=options.text_key,
        subset_key=options.subset_key,
        skip_bad=options.skip_bad,
        allow_overlap=options.allow_overlap,
    )
    with progress_bar("documents") as bar:
        manifest = prepare(config, lambda split, n: bar(n, split))
    if options.json:
        print_json(manifest)
    else:
        print(f"{options.out}: fingerprint {manifest['fingerprint'][:12]}")
        describe_data(manifest)
    return 0


def describe_data(manifest: dict[str, Any]) -> None:
    """Print sizes per split and subset, what was left out, and the overlap."""
    for name, split in manifest["splits"].items():
        print(
            f"  {name}: {split['n_documents']:,} documents, {format_bytes(split['n_bytes'])}, "
            f"{format_count(split['n_tokens'])} tokens"
        )
        for subset, counts in split["subsets"].items():
            rate = counts["n_bytes"] / max(counts["n_tokens"] - 2 * counts["n_documents"], 1)
            size, shown = format_bytes(counts["n_bytes"]), printable(subset)
            print(f"    {shown:<24} {counts['n_documents']:>8,}  {size:>8}  {rate:.2f} bytes/token")
        for reason, count in split["skipped"].items():
            print(f"    left out: {count:,} x {reason}")
    for pair, count in manifest["overlap"].items():
        print(f"  {pair}: {count} documents")
