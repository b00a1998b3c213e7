"""`ladderlm tokenizer`: train a vocabulary, import one that others made, or look at one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, print_json
from ladderlm.corpus.documents import Reader, ReadingOptions
from ladderlm.errors import ConfigError
from ladderlm.files import read_json
from ladderlm.text import visible
from ladderlm.tokenizer.base import RECORD
from ladderlm.tokenizer.foreign import import_tokenizer
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.tokenizer.train import HeldOut, prove_identical, save_tokenizer, train_bpe
from ladderlm.units import format_bytes

__all__ = ["run", "train_tokenizer"]

_USAGE = """usage: ladderlm tokenizer train SOURCE... --vocab-size N --out DIR
       ladderlm tokenizer import FILE|DIR --out DIR
       ladderlm tokenizer show FILE|DIR [--text TEXT]"""


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainOptions(ReadingOptions):
    """Train a byte-level BPE tokenizer on the beginning of a corpus."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
    """Corpus files or folders. In a folder, files named val or test are left out."""
    vocab_size: int
    """Number of tokens, including 256 bytes and 2 control tokens."""
    out: str
    """Folder of the tokenizer to write."""
    max_bytes: int = 20_000_000
    """Bytes of text to train on, from the beginning."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True, kw_only=True)
class TokenizerImportOptions:
    """Import Meta's tokenizer.model (LLaMA 1 to 3) or any tokenizer.json."""

    place: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|DIR")]
    """The tokenizer's file, or the folder that holds it."""
    out: str
    """Folder of the tokenizer to write."""
    bos: str | None = None
    """Name of the token that begins a document. Default: found in the file; if it has none, the
    EOS token is used."""
    eos: str | None = None
    """Name of the token that ends a document. Default: found in the file."""
    allow_lossy: bool = False
    """Accept a tokenizer that does not decode every text to itself, and record that."""


@dataclass(frozen=True, kw_only=True)
class TokenizerShowOptions:
    """Show what a tokenizer is, or how it encodes a text."""

    place: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|DIR")]
    """Folder of a tokenizer, or a file that others made."""
    text: str | None = None
    """Text to encode. Default: describe the tokenizer."""
    json: bool = False
    """Print the answer as JSON."""


def run(argv: list[str]) -> int:
    """Train, import or show."""
    verb = argv[0] if argv else "--help"
    if verb == "train":
        options = parse(
            TokenizerTrainOptions, argv[1:], "tokenizer train", "Train a byte-level BPE."
        )
        report = train_tokenizer(
            options.sources,
            options.vocab_size,
            Path(options.out),
            options.max_bytes,
            text_key=options.text_key,
            subset_key=options.subset_key,
            skip_bad=options.skip_bad,
        )
        if options.json:
            print_json(report)
        else:
            _print_training(report, options.out)
        return 0
    if verb == "import":
        words = parse(TokenizerImportOptions, argv[1:], "tokenizer import")
        return _import(words)
    if verb == "show":
        show = parse(TokenizerShowOptions, argv[1:], "tokenizer show")
        return _show_tokenizer(show)
    if verb in ("-h", "--help"):
        print(_USAGE)
        return 0 if argv else 2
    raise ConfigError(
        f"unknown verb {verb!r}",
        "",
        "use `tokenizer train`, `tokenizer import` or `tokenizer show`",
    )


def _training_texts(
    reader: Reader, max_bytes: int, held_out: HeldOut, read: dict[str, int]
) -> Iterator[str]:
    """Yield the training texts; every tenth is held out while there is room."""
    for i, document in enumerate(reader):
        size = len(document.text.encode())
        if i % 10 == 9 and held_out.offer(document.text, document.subset, size):
            continue
        held_out.see(document.text, document.subset)
        read["n_documents"] += 1
        read["n_bytes"] += size
        yield document.text
        if read["n_bytes"] >= max_bytes:
            return


def train_tokenizer(
    sources: tuple[str, ...], vocab_size: int, out: Path, max_bytes: int, **reading: Any
) -> dict[str, Any]:
    """Train, prove the encoders identical, measure on held-out text, publish; return the report.

    The corpus is read once and never held: memory is that of a million different pieces at most
    and of a few megabytes of held-out text.

    Args:
        sources: files or folders; files named val or test in a folder are never learnt from.
        reading: text_key, subset_key and skip_bad of the `Reader`.
    """
    if not sources:
        raise ConfigError("no SOURCE is named", "", "name corpus files or folders, or - for stdin")
    reader = Reader(sources, ReadingOptions(**reading))
    named = {Path(source) for source in sources}
    reader.files = [
        file
        for file in reader.files
        if file in named or file.name.split(".")[0] not in ("val", "test")
    ]
    held_out, trained_on = HeldOut(), {"n_documents": 0, "n_bytes": 0}
    tokenizer = train_bpe(_training_texts(reader, max_bytes, held_out, trained_on), vocab_size)
    n_checked = prove_identical(tokenizer, [text[:20_000] for text in held_out.sample()])
    record = {
        "trained_on": trained_on,
        "n_texts_proven": n_checked,
        "compression": held_out.compression(tokenizer),
    }
    save_tokenizer(out, tokenizer, record)
    return {"fingerprint": tokenizer.fingerprint, "vocab_size": vocab_size, **record}


def _print_training(report: dict[str, Any], out: str) -> None:
    learnt = report["trained_on"]
    print(f"{out}: {report['vocab_size']:,} tokens, fingerprint {report['fingerprint'][:12]}")
    print(f"  learnt from {learnt['n_documents']:,} documents, {format_bytes(learnt['n_bytes'])}")
    print(f"  tiktoken, tokenizers and the reference agree on {report['n_texts_proven']} texts")
    _print_compression(report["compression"])


def _print_compression(table: dict[str, Any]) -> None:
    """Print bytes per token, the whole first, then the subsets."""
    text = "text left out of training" if table["held_out"] else "the text it learnt from"
    print(f"  bytes per token on {text}, {format_bytes(table['n_bytes'])}:")
    for name, row in table["subsets"].items():
        rate = row["n_bytes"] / row["n_tokens"] if row["n_tokens"] else 0.0
        print(f"  {rate:8.3f}  {visible(name)} ({row['n_documents']:,} documents)")
    rate = table["n_bytes"] / table["n_tokens"] if table["n_tokens"] else 0.0
    print(f"  {rate:8.3f}  all")


def _import(options: TokenizerImportOptions) -> int:
    place, out = Path(options.place), Path(options.out)
    if (place / RECORD).is_file():
        raise ConfigError(
            f"{place} is a tokenizer folder of ladderlm", "", "use it as it is, or copy the folder"
        )
    tokenizer = import_tokenizer(
        place, out, options.bos, options.eos, allow_lossy=options.allow_lossy
    )
    print(f"{out}: {tokenizer.vocab_size:,} tokens, fingerprint {tokenizer.fingerprint[:12]}")
    return _show_tokenizer(TokenizerShowOptions(place=str(out)))


def _show_tokenizer(options: TokenizerShowOptions) -> int:
    tokenizer = load_tokenizer(options.place)
    if options.text is not None:
        rows = [
            (token, tokenizer.decode_bytes([token], continued=True))
            for token in tokenizer.encode(options.text)
        ]
        if options.json:
            print_json([{"id": token, "bytes": piece.hex()} for token, piece in rows])
        for token, piece in () if options.json else rows:
            print(f"{token:>7}  {piece!r}")
        return 0
    record = Path(options.place) / RECORD
    known: dict[str, Any] = read_json(record) if record.is_file() else {}
    own = ("fingerprint", "vocab_size", "bos_id", "eos_id", "pad_id")
    shown = {key: getattr(tokenizer, key) for key in own}
    names = ("model", "bos", "eos", "bos_is_substitute", "engine", "lossy", "trained_on")
    shown |= {key: known[key] for key in (*names, "compression") if key in known}
    if options.json:
        print_json(shown)
        return 0
    for key, value in shown.items():
        if not isinstance(value, dict):
            print(f"{key:<18} {visible(str(value))}")
    if "trained_on" in shown:
        learnt = shown["trained_on"]
        size = format_bytes(learnt["n_bytes"])
        print(f"{'trained_on':<18} {learnt['n_documents']:,} documents, {size}")
    if "compression" in shown:
        _print_compression(shown["compression"])
    return 0
