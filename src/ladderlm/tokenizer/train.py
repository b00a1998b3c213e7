"""Learn a byte-pair vocabulary from text.

Owns training and the proof that all encoders give the same ids.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ladderlm.errors import ConfigError, DataError
from ladderlm.files import publish_json, publish_text
from ladderlm.tokenizer.base import NASTY_TEXTS, OWN, RECORD
from ladderlm.tokenizer.bpe import BytePairTokenizer, encode_reference
from ladderlm.tokenizer.bpe_file import tokenizer_json
from ladderlm.tokenizer.merges import count_pieces, learn_tokens

__all__ = ["HeldOut", "prove_identical", "save_tokenizer", "train_bpe"]

_N_PROVEN = 40


class HeldOut:
    """Documents kept out of training, to measure compression on; bounded in bytes.

    Args:
        max_bytes: of all documents kept.
    """

    def __init__(self, max_bytes: int = 4_000_000) -> None:
        self.max_bytes, self.n_bytes = max_bytes, 0
        self._kept: list[tuple[str, str]] = []
        self._learnt: list[tuple[str, str]] = []  # the first few, for a corpus of a few documents

    def offer(self, text: str, subset: str, n_bytes: int) -> bool:
        """Keep a document if there is room; it must then not be learnt from."""
        if self.n_bytes + n_bytes > self.max_bytes:
            return False
        self._kept.append((text, subset))
        self.n_bytes += n_bytes
        return True

    def see(self, text: str, subset: str) -> None:
        """Note a document that is learnt from: the first nine stand in where none is held out."""
        if len(self._learnt) < 9:
            self._learnt.append((text[: self.max_bytes // 9], subset))

    def sample(self) -> list[str]:
        """Return some texts for the proof that encoders agree."""
        pairs = self._kept or self._learnt
        return [text for text, _ in pairs[:: max(len(pairs) // _N_PROVEN, 1)][:_N_PROVEN]]

    def compression(self, tokenizer: BytePairTokenizer) -> dict[str, Any]:
        """Count documents, UTF-8 bytes and tokens, in all and per subset.

        Returns:
            `held_out` False: there was none, and the text is the first that was learnt from.
        """
        counts = ("n_documents", "n_bytes", "n_tokens")
        total = dict.fromkeys(counts, 0)
        subsets: dict[str, dict[str, int]] = {}
        for text, subset in self._kept or self._learnt:
            row = (1, len(text.encode()), len(tokenizer.encode(text)))
            for table in (total, subsets.setdefault(subset, dict.fromkeys(counts, 0))):
                for key, count in zip(counts, row, strict=True):
                    table[key] += count
        ordered = dict(sorted(subsets.items()))
        return {"held_out": bool(self._kept), **total, "subsets": ordered}


def train_bpe(texts: Iterable[str], vocab_size: int) -> BytePairTokenizer:
    """Learn merges from texts; ids 0-255 are bytes, then merges in order, then BOS and EOS.

    Args:
        texts: read once, one at a time, never held.
        vocab_size: all ids, controls included.

    Raises:
        ConfigError: vocab_size below 258 or above 2^20.
        DataError: the text is too poor for that many tokens.
    """
    if not 258 <= vocab_size <= 2**20:
        raise ConfigError(
            f"--vocab-size {vocab_size}",
            "256 bytes and 2 control tokens are always there, and 2^20 is more than any model uses",
            "choose between 258 and 1048576",
        )
    words = learn_tokens(count_pieces(texts), vocab_size - 2)
    if len(words) != vocab_size - 2:
        raise DataError(
            f"the text gives only {len(words) + 2} tokens, not {vocab_size}",
            "there are no further pairs to merge",
            f"give more text or use --vocab-size {len(words) + 2}",
        )
    return BytePairTokenizer({word: rank for rank, word in enumerate(words)})


def prove_identical(tokenizer: BytePairTokenizer, texts: Sequence[str]) -> int:
    """Encode texts by tiktoken, `tokenizers` and the reference; all ids must be equal.

    Returns:
        Number of texts compared, the built-in nasty ones included.

    Raises:
        DataError: an encoder disagrees, or a text does not come back whole.
    """
    from tokenizers import Tokenizer

    other = Tokenizer.from_str(tokenizer_json(tokenizer.ranks))
    other.encode_special_tokens = True
    checked = [*NASTY_TEXTS, *texts]
    for text in checked:
        ids = tokenizer.encode(text)
        same = ids == other.encode(text, add_special_tokens=False).ids
        if (
            not same
            or ids != encode_reference(text, tokenizer.ranks)
            or tokenizer.decode(ids) != text
        ):
            raise DataError(
                f"encoders disagree on {text[:60]!r}",
                "ids would depend on which library is installed",
                "report this text together with the versions printed by `ladderlm doctor`",
            )
    return len(checked)


def save_tokenizer(folder: Path, tokenizer: BytePairTokenizer, provenance: dict[str, Any]) -> None:
    """Publish `tokenizer.json`, then `ladderlm.json` with fingerprint and provenance."""
    text = tokenizer_json(tokenizer.ranks)
    publish_text(folder / "tokenizer.json", text)
    record = {
        "kind": "ladderlm-tokenizer",
        "format_version": 1,
        "model": OWN,
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        **provenance,
    }
    publish_json(folder / RECORD, record)
