"""Learn a byte-pair vocabulary from text.

Owns training and the proof that all encoders return the same ids.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ladderlm.errors import ConfigError, DataError
from ladderlm.files import publish_text
from ladderlm.tokenizer.base import NASTY_TEXTS, OWN, publish_record
from ladderlm.tokenizer.bpe import BytePairTokenizer, encode_reference
from ladderlm.tokenizer.bpe_file import tokenizer_json
from ladderlm.tokenizer.merges import count_pieces, learn_tokens

__all__ = ["HeldOut", "prove_identical", "save_tokenizer", "train_bpe"]

_N_PROVEN = 40


class HeldOut:
    """Held-out documents, at most `max_bytes` in all, on which compression is measured."""

    def __init__(self, max_bytes: int = 4_000_000) -> None:
        self.max_bytes, self.n_bytes = max_bytes, 0
        self._kept: list[tuple[str, str]] = []
        self._learnt: list[
            tuple[str, str]
        ] = []  # the first few, for a corpus too small to hold out

    def offer(self, text: str, subset: str, n_bytes: int) -> bool:
        """Hold out a document if there is room, and return whether it was."""
        if self.n_bytes + n_bytes > self.max_bytes:
            return False
        self._kept.append((text, subset))
        self.n_bytes += n_bytes
        return True

    def see(self, text: str, subset: str) -> None:
        """Record a training document; the first nine are used if no document is held out."""
        if len(self._learnt) < 9:
            self._learnt.append((text[: self.max_bytes // 9], subset))

    def sample(self) -> list[str]:
        """Return up to 40 texts for the proof that encoders agree."""
        pairs = self._kept or self._learnt
        return [text for text, _ in pairs[:: max(len(pairs) // _N_PROVEN, 1)][:_N_PROVEN]]

    def compression(self, tokenizer: BytePairTokenizer) -> dict[str, Any]:
        """Return the numbers of documents, UTF-8 bytes and tokens, in total and per subset.

        If `held_out` is False, no document was held out and training documents were counted.
        """
        counts = ("n_documents", "n_bytes", "n_tokens")
        total = dict.fromkeys(counts, 0)
        subsets: dict[str, dict[str, int]] = {}
        for text, subset in self._kept or self._learnt:
            row = (1, len(text.encode()), len(tokenizer.encode(text)))
            for table in (total, subsets.setdefault(subset, dict.fromkeys(counts, 0))):
                for key, count in zip(counts, row, strict=True):
                    table[key] += count
        return {"held_out": bool(self._kept), **total, "subsets": dict(sorted(subsets.items()))}


def train_bpe(texts: Iterable[str], vocab_size: int) -> BytePairTokenizer:
    """Learn merges from texts. Ids 0-255 are bytes, then merges in order, then BOS and EOS.

    Args:
        texts: read once, one at a time.
        vocab_size: all ids, controls included.

    Raises:
        ConfigError: vocab_size below 258 or above 2^20.
        DataError: the text has too few pairs for that many tokens.
    """
    if not 258 <= vocab_size <= 2**20:
        raise ConfigError(
            f"--vocab-size must be between 258 and 1048576, got {vocab_size}",
            fix="choose a size in this range, such as 32768",
        )
    words = learn_tokens(count_pieces(texts), vocab_size - 2)
    if len(words) != vocab_size - 2:
        raise DataError(
            f"the text yields only {len(words) + 2} tokens, not {vocab_size}",
            fix=f"train on more text or use --vocab-size {len(words) + 2}",
        )
    return BytePairTokenizer({word: rank for rank, word in enumerate(words)})


def prove_identical(tokenizer: BytePairTokenizer, texts: Sequence[str]) -> int:
    """Check that tiktoken, `tokenizers` and the reference return equal ids.

    Returns:
        Number of texts compared, `NASTY_TEXTS` included.

    Raises:
        DataError: an encoder disagrees, or decoding does not restore a text.
    """
    from tokenizers import Tokenizer

    other = Tokenizer.from_str(tokenizer_json(tokenizer.ranks))
    other.encode_special_tokens = True
    checked = [*NASTY_TEXTS, *texts]
    for text in checked:
        ids = tokenizer.encode(text)
        same = ids == other.encode(text, add_special_tokens=False).ids
        same = same and ids == encode_reference(text, tokenizer.ranks)
        if not same or tokenizer.decode(ids) != text:
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
    publish_record(folder, tokenizer, OWN, hashlib.sha256(text.encode()).hexdigest(), provenance)
