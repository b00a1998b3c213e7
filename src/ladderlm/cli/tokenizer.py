"""`ladderlm tokenizer`: train a vocabulary, or look at one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, print_json, printable
from ladderlm.data.documents import Reader
from ladderlm.errors import ConfigError
from ladderlm.files import read_json
from ladderlm.tokenizer.base import load_tokenizer
from ladderlm.tokenizer.train import prove_identical, save_tokenizer, train_bpe
from ladderlm.units import format_bytes, parse_bytes

__all__ = ["compression", "run", "train_tokenizer"]

N_SAMPLE = 40


@dataclass(frozen=True)
class TrainOptions:
    """Train a byte-level BPE on the first part of a corpus."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
    """Corpus files or folders; a folder's val and test files are left out."""
    vocab_size: int
    """All ids, 256 bytes and 2 control tokens included."""
    out: str
    """Folder to write."""
    max_bytes: str = "20MB"
    """Text to learn from."""
    text_key: str = "text"
    """Where a record's text is."""
    subset_key: str = "meta.pile_set_name"
    """Where a record's subset is."""
    skip_bad: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out bad records instead of stopping."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class ShowOptions:
    """Show a tokenizer."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Tokenizer folder."""
    text: str | None = None
    """A text to encode."""


def run(argv: list[str]) -> int:
    """Train or show."""
    verb = argv[0] if argv else "--help"
    if verb == "train":
        options = parse(TrainOptions, argv[1:], "tokenizer train", "Train a byte-level BPE.")
        report = train_tokenizer(
            options.sources,
            options.vocab_size,
            Path(options.out),
            parse_bytes(options.max_bytes),
            text_key=options.text_key,
            subset_key=options.subset_key,
            skip_bad=options.skip_bad,
        )
        if options.json:
            print_json(report)
        else:
            _describe(report, options.out)
        return 0
    if verb == "show":
        show = parse(ShowOptions, argv[1:], "tokenizer show", "Show a tokenizer.")
        return _show(show)
    if verb in ("-h", "--help"):
        print("usage: ladderlm tokenizer train SOURCE... --vocab-size N --out DIR")
        print("       ladderlm tokenizer show DIR [--text TEXT]")
        return 0 if argv else 2
    raise ConfigError(f"unknown verb {verb!r}", "", "use `tokenizer train` or `tokenizer show`")


def _texts(reader: Reader, max_bytes: int) -> Iterator[tuple[str, str]]:
    n_bytes = 0
    for document in reader:
        yield document.text, document.subset
        n_bytes += len(document.text.encode())
        if n_bytes >= max_bytes:
            return


def train_tokenizer(
    sources: tuple[str, ...], vocab_size: int, out: Path, max_bytes: int, **reading: Any
) -> dict[str, Any]:
    """Train, prove the encoders identical, publish; give the report.

    Args:
        sources: files or folders; files named val or test in a folder are never learnt from.
        reading: text_key, subset_key and skip_bad of the `Reader`.
    """
    if not sources:
        raise ConfigError("no SOURCE is named", "", "name corpus files or folders, or - for stdin")
    reader = Reader(sources, **reading)
    named = {Path(source) for source in sources}
    reader.files = [
        file
        for file in reader.files
        if file in named or file.name.split(".")[0] not in ("val", "test")
    ]
    pairs = list(_texts(reader, max_bytes))
    tokenizer = train_bpe((text for text, _ in pairs), vocab_size)
    sample = pairs[:: max(len(pairs) // N_SAMPLE, 1)][:N_SAMPLE]
    n_checked = prove_identical(tokenizer, [text[:20_000] for text, _ in sample])
    trained_on = {"n_documents": len(pairs), "n_bytes": sum(len(t.encode()) for t, _ in pairs)}
    save_tokenizer(out, tokenizer, {"trained_on": trained_on, "n_texts_proven": n_checked})
    return {
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": vocab_size,
        "trained_on": trained_on,
        "n_texts_proven": n_checked,
        "bytes_per_token": compression(tokenizer, pairs[:300]),
    }


def compression(tokenizer: Any, pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Give bytes per token, overall and per subset, on some texts."""
    n_bytes: dict[str, int] = {}
    n_tokens: dict[str, int] = {}
    for text, subset in pairs:
        size, count = len(text.encode()), len(tokenizer.encode(text))
        for name in ("all", subset):
            n_bytes[name] = n_bytes.get(name, 0) + size
            n_tokens[name] = n_tokens.get(name, 0) + count
    return {name: n_bytes[name] / n_tokens[name] for name in sorted(n_bytes) if n_tokens[name]}


def _describe(report: dict[str, Any], out: str) -> None:
    learnt = report["trained_on"]
    print(f"{out}: {report['vocab_size']:,} tokens, fingerprint {report['fingerprint'][:12]}")
    print(f"  learnt from {learnt['n_documents']:,} documents, {format_bytes(learnt['n_bytes'])}")
    print(f"  tiktoken, tokenizers and the reference agree on {report['n_texts_proven']} texts")
    for name, rate in report["bytes_per_token"].items():
        print(f"  {printable(name):<20} {rate:.2f} bytes per token")


def _show(options: ShowOptions) -> int:
    tokenizer = load_tokenizer(options.folder)
    if options.text is None:
        record = read_json(Path(options.folder) / "ladderlm.json")
        for key in ("fingerprint", "vocab_size", "bos_id", "eos_id"):
            print(f"{key:<12} {record[key]}")
        return 0
    for token in tokenizer.encode(options.text):
        print(f"{token:>7}  {tokenizer.decode_bytes([token])!r}")
    return 0
