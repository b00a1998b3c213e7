"""Encode a prompt into ids that a model can continue.

Owns the healing of a prompt's last token. Knows no model.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from ladderlm.tokenizer.base import Tokenizer

__all__ = ["EncodedPrompt", "encode_prompt"]


@dataclass(frozen=True)
class EncodedPrompt:
    """The ids of a prompt, and the constraint on the first new token.

    Args:
        text: as given; empty is the unconditional prompt.
        tokens: BOS and the tokens of the text, without the healed one.
        healed: bytes of the token left out; the continuation begins with them.
        first_ids: ids allowed as the first new token. Default: any.
    """

    text: str
    tokens: tuple[int, ...]
    healed: bytes = b""
    first_ids: tuple[int, ...] | None = None

    def continuation(self, tokenizer: Tokenizer, new: Sequence[int]) -> str:
        """Return the text that new ids add to the prompt."""
        added = tokenizer.decode_bytes(new, continued=bool(self.text))
        return added[len(self.healed) :].decode("utf-8", "replace")


def encode_prompt(
    tokenizer: Tokenizer, text: str, n_longest: int | None = None, *, heal: bool = True
) -> EncodedPrompt:
    """Encode a prompt and heal its end.

    A text that ends within a word ends in a token that the model never saw there. For example, a
    name follows "def ", but in training the space is part of the name's token. So the last token is
    removed, and the first new token is sampled from those that begin with its bytes.

    Args:
        n_longest: keep only BOS and the end of a longer prompt. Default: keep all.
        heal: False keeps the last token, as Meta's code, transformers and llama.cpp do.
    """
    ids = tokenizer.encode(text, bos=True)
    if n_longest is not None and len(ids) > n_longest:
        ids = [ids[0], *ids[len(ids) - (n_longest - 1) :]]
    if len(ids) >= 2 and heal:
        bytes_of = functools.partial(tokenizer.decode_bytes, continued=True)
        last = bytes_of(ids[-1:])
        fitting = tuple(i for i in range(tokenizer.vocab_size) if bytes_of([i]).startswith(last))
        if len(fitting) >= 2 and last:
            return EncodedPrompt(text, tuple(ids[:-1]), last, fitting)
    return EncodedPrompt(text, tuple(ids))
