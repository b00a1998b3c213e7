"""Train a tokenizer on a corpus.

Owns `TokenizerConfig`, the choice of training text and the order of the steps. How merges are
learned is in `tokenizer/train.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladderlm.corpus.documents import Reader, ReadingOptions
from ladderlm.errors import ConfigError
from ladderlm.tokenizer.train import HeldOut, prove_identical, save_tokenizer, train_bpe

__all__ = ["TokenizerConfig", "train_tokenizer"]


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(ReadingOptions):
    """Train a byte-level BPE tokenizer on the beginning of a corpus."""

    sources: tuple[str, ...]
    """Corpus files or folders. In a folder, files named val or test are left out."""
    vocab_size: int
    """Number of tokens, including 256 bytes and 2 control tokens."""
    out: str
    """Folder of the tokenizer to write."""
    max_bytes: int = 20_000_000
    """Bytes of text to train on, from the beginning."""


def train_tokenizer(config: TokenizerConfig) -> dict[str, Any]:
    """Train, prove the encoders identical, measure on held-out text, publish; return the report.

    The corpus is read once and never held: memory is limited to a million different pieces and a
    few megabytes of held-out text.
    """
    if not config.sources:
        raise ConfigError("no SOURCE is named", fix="name corpus files or folders, or - for stdin")
    reader = Reader(config.sources, config)
    named = {Path(source) for source in config.sources}
    reader.files = [
        file
        for file in reader.files
        if file in named or file.name.split(".")[0] not in ("val", "test")
    ]
    held_out, trained_on = HeldOut(), {"n_documents": 0, "n_bytes": 0}
    texts = _training_texts(reader, config.max_bytes, held_out, trained_on)
    tokenizer = train_bpe(texts, config.vocab_size)
    n_checked = prove_identical(tokenizer, [text[:20_000] for text in held_out.sample()])
    record = {
        "trained_on": trained_on,
        "n_texts_proven": n_checked,
        "compression": held_out.compression(tokenizer),
    }
    save_tokenizer(Path(config.out), tokenizer, record)
    return {"fingerprint": tokenizer.fingerprint, "vocab_size": config.vocab_size, **record}


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
