"""`ladderlm convert`: convert models from and to other formats."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ladderlm.cli.options import CheckpointOptions, parse
from ladderlm.config import require
from ladderlm.text import visible

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(CheckpointOptions):
    """Convert a model between run folders, Meta's, Hugging Face's and GGUF files."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Folder of a run, of Meta's files (params.json) or of Hugging Face's (config.json)."""
    to: Literal["meta", "hf", "gguf", "native"]
    """Format to write. meta: Meta's checkpoint files. hf: Hugging Face's. gguf: one file for
    llama.cpp. native: a run folder for `ladderlm eval` and `generate`."""
    out: str
    """Folder of the result. It must be new."""
    dtype: Literal["float32", "bfloat16", "float16", "q8_0"] | None = None
    """Type of the tensors: float32, bfloat16, float16, or q8_0 for gguf only. Default: as
    stored."""
    shards: int = 1
    """Number of files of Meta's format, one per process that will load them."""
    certificate: str | None = None
    """Compare the logits of source and result, and write this JSON file and a page (.md) next to
    it. Default: do not compare."""
    max_seq_len: int | None = None
    """Context of the result, in tokens. Default: that of the source."""
    tokenizer: str | None = None
    """Folder of the tokenizer. Default: SRC."""

    def __post_init__(self) -> None:
        length = self.max_seq_len
        require("--shards", self.shards, 1 <= self.shards <= 64, "be between 1 and 64")
        valid = length is None or 2 <= length < 2**24
        require("--max-seq-len", length, valid, "be at least 2 and below 2^24")


def run(argv: list[str]) -> int:
    """Convert a model; return 1 if a certificate was asked for and does not hold."""
    options = parse(ConvertOptions, argv, "convert")

    from ladderlm.convert.convert import convert, describe_weights, open_source

    source = open_source(
        Path(options.source),
        checkpoint=options.checkpoint,
        max_seq_len=options.max_seq_len,
        tokenizer=None if options.tokenizer is None else Path(options.tokenizer),
    )
    print(visible(describe_weights(source)))
    if source.ignored:
        print(visible(f"  ignored: {', '.join(source.ignored)}"))
    out = Path(options.out)
    files = convert(source, options.to, out, dtype=options.dtype, n_shards=options.shards)
    for path in files:
        print(f"  {path}: {path.stat().st_size:,} bytes")
    if source.tokenizer is None:
        print("  no tokenizer was found; add --tokenizer DIR to copy one")
    if options.certificate is None:
        return 0

    from ladderlm.convert.certificate import certify, write_certificate

    certificate = certify(source, options.to, out)
    page = write_certificate(certificate, Path(options.certificate))
    print(visible(certificate["verdict"]) + f"; see {page}")
    return 0 if certificate["holds"] else 1
