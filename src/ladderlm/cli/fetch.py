"""`ladderlm fetch`: get a corpus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ladderlm.cli.options import parse, print_json
from ladderlm.data.local import MIN_CORPUS_BYTES, fetch_local
from ladderlm.errors import ConfigError
from ladderlm.units import format_bytes

__all__ = ["run"]


@dataclass(frozen=True)
class FetchOptions:
    """Get a corpus of `.jsonl.zst` files."""

    corpus: Annotated[Literal["local", "pile"], tyro.conf.Positional]
    """local: the text of the Python packages installed here; no download."""
    out: str
    """Folder to write train.jsonl.zst, val.jsonl.zst and corpus.json to."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print corpus.json."""


def run(argv: list[str]) -> int:
    """Fetch as asked."""
    options = parse(FetchOptions, argv, "fetch", "Get a corpus.")
    if options.corpus == "pile":
        raise ConfigError(
            "`fetch pile` is not part of this version",
            "the readers take the Pile's files as they are, from wherever you have them",
            "get val.jsonl.zst and some of train/*.jsonl.zst, then "
            "`ladderlm prepare FOLDER --tokenizer DIR --out DATA`",
        )
    corpus = fetch_local(Path(options.out))
    if options.json:
        print_json(corpus)
    else:
        _describe(corpus, options.out)
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
