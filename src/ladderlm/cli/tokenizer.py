"""`ladderlm tokenizer`: train a tokenizer, import one in another format, or show one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, print_json
from ladderlm.errors import ConfigError
from ladderlm.files import read_json
from ladderlm.prepare.vocabulary import TokenizerConfig, train_tokenizer
from ladderlm.text import visible
from ladderlm.tokenizer.base import RECORD
from ladderlm.tokenizer.foreign import import_tokenizer
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.units import format_bytes

__all__ = ["run"]

_USAGE = """usage: ladderlm tokenizer train SOURCE... --vocab-size N --out DIR
       ladderlm tokenizer import FILE|DIR --out DIR
       ladderlm tokenizer show FILE|DIR [--text TEXT]"""


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainOptions(TokenizerConfig):
    """Train a byte-level BPE tokenizer on the beginning of a corpus."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
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
    """Describe a tokenizer, or show how it encodes a text."""

    place: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|DIR")]
    """Folder of a tokenizer, or a tokenizer file in another format."""
    text: str | None = None
    """Text to encode. Default: describe the tokenizer."""
    json: bool = False
    """Print the answer as JSON."""


def run(argv: list[str]) -> int:
    """Train, import or show."""
    verb, words = (argv[0], argv[1:]) if argv else ("--help", [])
    if verb == "train":
        options = parse(TokenizerTrainOptions, words, "tokenizer train")
        report = train_tokenizer(options)
        if options.json:
            print_json(report)
        else:
            _print_training(report, options.out)
    elif verb == "import":
        _import(parse(TokenizerImportOptions, words, "tokenizer import"))
    elif verb == "show":
        _show_tokenizer(parse(TokenizerShowOptions, words, "tokenizer show"))
    elif verb in ("-h", "--help"):
        print(_USAGE)
        return 0 if argv else 2
    else:
        raise ConfigError(
            f"unknown verb {verb!r}",
            fix="use `tokenizer train`, `tokenizer import` or `tokenizer show`",
        )
    return 0


def _print_training(report: dict[str, Any], out: str) -> None:
    trained_on = report["trained_on"]
    size = format_bytes(trained_on["n_bytes"])
    print(f"{out}: {report['vocab_size']:,} tokens, fingerprint {report['fingerprint'][:12]}")
    print(f"  trained on {trained_on['n_documents']:,} documents, {size}")
    print(f"  tiktoken, tokenizers and the reference agree on {report['n_texts_proven']} texts")
    _print_compression(report["compression"])


def _print_compression(table: dict[str, Any]) -> None:
    """Print bytes per token by subset and in total."""
    text = "held-out text" if table["held_out"] else "the training text"
    print(f"  bytes per token on {text}, {format_bytes(table['n_bytes'])}:")
    rows = [
        (f"{visible(k)} ({v['n_documents']:,} documents)", v) for k, v in table["subsets"].items()
    ]
    for name, row in [*rows, ("all", table)]:
        rate = row["n_bytes"] / row["n_tokens"] if row["n_tokens"] else 0.0
        print(f"  {rate:8.3f}  {name}")


def _import(options: TokenizerImportOptions) -> None:
    place, out = Path(options.place), Path(options.out)
    if (place / RECORD).is_file():
        raise ConfigError(
            f"{place} is a tokenizer folder of ladderlm", fix="use it as it is, or copy the folder"
        )
    tokenizer = import_tokenizer(
        place, out, options.bos, options.eos, allow_lossy=options.allow_lossy
    )
    print(f"{out}: {tokenizer.vocab_size:,} tokens, fingerprint {tokenizer.fingerprint[:12]}")
    _show_tokenizer(TokenizerShowOptions(place=str(out)))


def _show_tokenizer(options: TokenizerShowOptions) -> None:
    tokenizer = load_tokenizer(options.place)
    if options.text is not None:
        ids = tokenizer.encode(options.text)
        rows = [(i, tokenizer.decode_bytes([i], continued=True)) for i in ids]
        if options.json:
            print_json([{"id": token, "bytes": piece.hex()} for token, piece in rows])
        else:
            print("".join(f"{token:>7}  {piece!r}\n" for token, piece in rows), end="")
        return
    record = Path(options.place) / RECORD
    known: dict[str, Any] = read_json(record) if record.is_file() else {}
    own = ("fingerprint", "vocab_size", "bos_id", "eos_id", "pad_id")
    shown = {key: getattr(tokenizer, key) for key in own}
    names = ("model", "bos", "eos", "bos_is_substitute", "engine", "lossy", "trained_on")
    shown |= {key: known[key] for key in (*names, "compression") if key in known}
    if options.json:
        print_json(shown)
        return
    for key, value in shown.items():
        if not isinstance(value, dict):
            print(f"{key:<18} {visible(str(value))}")
    if "trained_on" in shown:
        trained_on = shown["trained_on"]
        size = format_bytes(trained_on["n_bytes"])
        print(f"{'trained_on':<18} {trained_on['n_documents']:,} documents, {size}")
    if "compression" in shown:
        _print_compression(shown["compression"])
