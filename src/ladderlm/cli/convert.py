"""`ladderlm convert`: checkpoints in and out of other formats."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ladderlm.cli.options import CheckpointOptions, parse
from ladderlm.errors import ConfigError
from ladderlm.text import visible

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(CheckpointOptions):
    """Write a model in another format: a run, a folder of Meta's or of Hugging Face's."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Run, folder of Meta's (params.json) or of Hugging Face's (config.json)."""
    to: Literal["meta", "hf", "gguf", "native"]
    """Format to write; native is a run folder for eval and generate."""
    out: str
    """New folder."""
    dtype: Literal["float32", "bfloat16", "float16", "q8_0"] | None = None
    """Of the tensors. Default: as stored; q8_0 is for gguf."""
    shards: int = 1
    """Files of Meta's format, one for each of its processes."""
    certificate: str | None = None
    """Compare logits of source and result, and write FILE (JSON) and a page beside it (.md)."""
    max_seq_len: int | None = None
    """Context of the model, where SRC does not say it or it shall be another."""
    tokenizer: str | None = None
    """Folder with the tokenizer, if it does not lie in SRC."""


def run(argv: list[str]) -> int:
    """Convert as asked; 1 if a certificate was asked for and does not hold."""
    options = parse(ConvertOptions, argv, "convert", "Write a model in another format.")
    if not 1 <= options.shards <= 64:
        raise ConfigError(f"--shards {options.shards}", "it lies between 1 and 64")
    if options.max_seq_len is not None and not 2 <= options.max_seq_len < 2**24:
        raise ConfigError(f"--max-seq-len {options.max_seq_len}", "it is at least 2")

    from ladderlm.interop.convert import convert, describe_weights, open_source

    tokenizer = None if options.tokenizer is None else Path(options.tokenizer)
    source = open_source(
        Path(options.source),
        checkpoint=options.checkpoint,
        max_seq_len=options.max_seq_len,
        tokenizer=tokenizer,
    )
    print(visible(describe_weights(source)))
    if source.ignored:
        print(visible(f"  ignored: {', '.join(source.ignored)}"))
    out = Path(options.out)
    files = convert(source, options.to, out, dtype=options.dtype, n_shards=options.shards)
    for path in files:
        print(f"  {path}: {path.stat().st_size:,} bytes")
    if source.tokenizer is None:
        print("  no tokenizer was found; name its folder with --tokenizer DIR to have it copied")
    if options.certificate is None:
        return 0

    from ladderlm.interop.certificate import certify, write_certificate

    certificate = certify(source, options.to, out)
    page = write_certificate(certificate, Path(options.certificate))
    print(visible(certificate["verdict"]) + f"; see {page}")
    return 0 if certificate["holds"] else 1
