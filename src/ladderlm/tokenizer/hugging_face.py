"""Any `tokenizer.json` of Hugging Face's `tokenizers` library.

Owns two ways to use it. A byte-level BPE whose ids are proven equal becomes a `BytePairTokenizer`
(exact bytes, fast encoders). Every other one runs in the library itself, and each text is checked
to survive encoding and decoding, unless the file is recorded as lossy.
"""

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ladderlm.errors import DataError
from ladderlm.tokenizer.base import NASTY_TEXTS, Tokenizer, check_encodable, check_ids
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.bpe_file import byte_alphabet

__all__ = ["HuggingFaceTokenizer", "convert_byte_level", "find_controls", "open_library"]

# GPT-2's pattern, which the library applies when a file only says `use_regex`.
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTROLS = {
    "bos_token": ("<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>", "[CLS]"),
    "eos_token": ("<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>", "[SEP]"),
}
_SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def find_controls(value: Mapping[str, Any], path: Path) -> tuple[str | None, str | None]:
    """Return the names of BOS and EOS, each None if the file has no such added token.

    They are read from the files next to it. If those name none, well-known names are tried.
    """
    added = {token["content"] for token in value.get("added_tokens") or ()}
    names: list[str | None] = []
    for key, known in _CONTROLS.items():
        stated = [_stated(path.with_name(file), key) for file in _SIDE_FILES]
        candidates = [name for name in stated if name] or known
        names.append(next((name for name in candidates if name in added), None))
    return names[0], names[1]


def _stated(file: Path, key: str) -> str | None:
    """Return the name that a file next to the tokenizer has for a control token."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))[key]
        return str(value["content"]) if isinstance(value, dict) else value
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_library(value: dict[str, Any], path: Path, controls: Sequence[str]) -> Any:
    """Open a tokenizer in the `tokenizers` library. Names of control tokens in a text stay text.

    Raises:
        DataError: the library is missing or refuses the file.
    """
    try:
        import tokenizers
    except ImportError:
        what = f"{path} needs the tokenizers library, which is not installed"
        raise DataError(what, fix="run `pip install tokenizers`") from None
    tokens = [
        token | {"special": token["special"] or token["content"] in controls}
        for token in value.get("added_tokens") or ()
    ]
    try:
        library = tokenizers.Tokenizer.from_str(json.dumps(value | {"added_tokens": tokens}))
    except Exception as error:  # the library raises plain Exception
        raise DataError(
            f"the tokenizers library cannot read {path}: {error}",
            fix="download the file again, or update with `pip install -U tokenizers`",
        ) from error
    library.encode_special_tokens = True
    library.no_truncation()
    library.no_padding()
    return library


def convert_byte_level(
    value: Mapping[str, Any],
    library: Callable[[], Any],
    bos: str,
    eos: str,
    fingerprint: str,
    *,
    prove: bool,
) -> BytePairTokenizer | None:
    """Convert a byte-level BPE to ours.

    Args:
        library: returns the tokenizer as the library runs it; called only if needed.
        prove: compare ids on hard texts, on tokens of the vocabulary and on random rows of them.

    Returns:
        None if ids differ, or if the file is no byte-level BPE or needs a feature that ours lacks.
    """
    pattern, model = _byte_level_pattern(value), value.get("model") or {}
    tokens = value.get("added_tokens") or ()
    added = {token["content"]: token["id"] for token in tokens}
    plain = {token["content"] for token in tokens if not token["special"]}
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if pattern is None or model.get("type") != "BPE" or any(model.get(key) for key in odd):
        return None
    if value.get("normalizer") or plain - {bos, eos}:
        return None
    to_byte = {char: byte for byte, char in byte_alphabet().items()}
    try:
        words = {word: rank for word, rank in model["vocab"].items() if word not in added}
        ranks = {bytes(to_byte[char] for char in word): rank for word, rank in words.items()}
    except KeyError:
        return None
    if len(ranks) != len(words) or any(bytes([byte]) not in ranks for byte in range(256)):
        return None
    own = BytePairTokenizer(
        ranks,
        pattern=pattern,
        controls=added,
        bos=bos,
        eos=eos,
        fingerprint=fingerprint,
        spare=lambda text: _ids(library(), text),
    )
    try:
        same = not prove or all(
            own.encode(text) == _ids(library(), text) and own.decode(own.encode(text)) == text
            for text in _proof_texts(ranks, added)
        )
    except Exception:  # tiktoken supports fewer regular expressions than the library does
        return None
    return own if same else None


def _ids(library: Any, text: str) -> list[int]:
    return list(library.encode(text, add_special_tokens=False).ids)


def _byte_level_pattern(value: Mapping[str, Any]) -> str | None:
    """Return the split pattern of a byte-level file, or None if it splits in another way."""
    steps = value.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers") if steps.get("type") == "Sequence" else [steps]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if len(steps) == 1:
        return _GPT2_PATTERN if steps[0].get("use_regex", True) else None
    split = steps[0]
    whole = len(steps) == 2 and split.get("type") == "Split" and not steps[1].get("use_regex", True)
    if not whole or split.get("behavior") != "Isolated" or split.get("invert"):
        return None
    pattern = (split.get("pattern") or {}).get("Regex")
    return str(pattern) if pattern else None


def _proof_texts(ranks: Mapping[bytes, int], added: Mapping[str, int]) -> list[str]:
    rng = random.Random(1)
    tokens = rng.sample(sorted(ranks), min(len(ranks), 1500))
    words = [token.decode("utf-8", "replace") for token in tokens]
    rows = ["".join(rng.choices(words, k=20)) for _ in range(300)]
    controls = [f"a{name}b{name}" for name in list(added)[:300]]
    return [*NASTY_TEXTS, *words, *rows, *controls]


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer that the `tokenizers` library runs.

    Args:
        library: from `open_library`.
        controls: names and ids that no text may yield.
        lossy: texts are not checked to survive encoding and decoding.
        name: of the file, for messages.
    """

    pad_id = -1

    def __init__(
        self,
        library: Any,
        controls: Mapping[str, int],
        bos: str,
        eos: str,
        *,
        fingerprint: str,
        lossy: bool,
        name: str,
    ) -> None:
        self._library, self.lossy, self._name = library, lossy, name
        self.controls, self._control_ids = dict(controls), frozenset(controls.values())
        self.bos_id, self.eos_id = controls[bos], controls[eos]
        vocab: dict[str, int] = library.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values()) + 1
        self.fingerprint = fingerprint
        self._ids = functools.partial(_ids, library)
        self._anchor = self._ids("a")

    def come_back(self, text: str) -> str:
        """Return what remains of a text after encoding and decoding."""
        return self.decode(self._ids(text))

    def loses(self, text: str) -> bool:
        """Return whether encoding and decoding changes a text, or the text yields a control id."""
        ids = self._ids(text)
        return self.decode(ids) != text or not self._control_ids.isdisjoint(ids)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text; see `Tokenizer.encode`.

        Raises:
            DataError: a lone surrogate, or decoding does not restore the text.
        """
        check_encodable(text)
        if not self.lossy and self.loses(text):
            raise DataError(
                f"{self._name} loses a text: {text[:60]!r} comes back as "
                f"{self.come_back(text)[:60]!r}",
                "bits per byte and samples would refer to a different text",
                "leave the text out, or import the tokenizer with --allow-lossy",
            )
        return [self.bos_id] * bos + self._ids(text) + [self.eos_id] * eos

    def decode_bytes(self, ids: Sequence[int], *, continued: bool = False) -> bytes:
        """Return the bytes of the text of ids; incomplete characters become U+FFFD."""
        return self.decode(ids, continued=continued).encode("utf-8", "replace")

    def decode(self, ids: Sequence[int], *, continued: bool = False) -> str:
        """Return the text of ids; if `continued`, what they add to a preceding letter."""
        check_ids(ids, self.vocab_size)
        before = self._anchor if continued else []
        text: str = self._library.decode([*before, *ids], skip_special_tokens=True)
        if continued:
            text = text[len(self._library.decode(before, skip_special_tokens=True)) :]
        return text
