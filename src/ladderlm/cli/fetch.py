"""`ladderlm fetch`: fetch a corpus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from ladderlm.cli.options import parse, print_json
from ladderlm.cli.transfers import show_transfers
from ladderlm.corpus.local import MIN_CORPUS_BYTES, fetch_local
from ladderlm.corpus.pile import PileRequest, fetch_pile
from ladderlm.errors import ConfigError
from ladderlm.units import format_bytes

__all__ = ["run"]

_USAGE = """usage: ladderlm fetch local --out DIR
       ladderlm fetch pile --out DIR [--split train --shards 0,1] [--max-bytes 500MB]"""

_NUMBERS = PrimitiveConstructorSpec(
    nargs=1,
    metavar="N,N,...",
    instance_from_str=lambda words: _read_numbers(words[0]),
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [",".join(map(str, value))],
)


@dataclass(frozen=True, kw_only=True)
class FetchLocalOptions:
    """Collect text of the Python packages that are installed here. Nothing is downloaded."""

    out: str
    """Folder of the corpus to write."""
    json: bool = False
    """Print corpus.json."""


@dataclass(frozen=True, kw_only=True)
class FetchPileOptions(PileRequest):
    """Download files of the Pile, whole or only the beginning of each."""

    out: str
    """Folder of the corpus to write."""
    shards: Annotated[tuple[int, ...], _NUMBERS, tyro.conf.arg(metavar="N,N,...")] = (
        PileRequest.shards
    )
    json: bool = False
    """Print pile.json."""


def run(argv: list[str]) -> int:
    """Fetch a corpus."""
    verb = next((word for word in argv if word in ("local", "pile")), None)
    rest = [word for word in argv if word != verb]
    if verb == "pile":
        _fetch_pile(parse(FetchPileOptions, rest, "fetch pile"))
    elif verb == "local":
        options = parse(FetchLocalOptions, rest, "fetch local")
        corpus = fetch_local(Path(options.out))
        if options.json:
            print_json(corpus)
        else:
            _print_corpus(corpus, options.out)
    else:
        print(_USAGE)
        return 0 if {"-h", "--help"} & set(argv) else 2
    return 0


def _read_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--shards must be a list of numbers, got {text!r}", fix="write 0 or 0,1,2"
        ) from error


def _fetch_pile(options: FetchPileOptions) -> None:
    with show_transfers() as (progress, say):
        record = fetch_pile(Path(options.out), options, progress=progress, say=say)
    if options.json:
        print_json(record)
        return
    for name, file in record["files"].items():
        _print_file(f"{options.out}/{name}", file)


def _print_file(path: str, file: dict[str, Any]) -> None:
    """Print the size of a file, its source and what its hash was compared with."""
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
