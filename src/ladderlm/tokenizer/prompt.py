"""From the text of a prompt to ids that a model can continue.

Owns the healing of a prompt's last token. Knows no model.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from ladderlm.tokenizer.base import Tokenizer

__all__ = ["EncodedPrompt", "encode_prompt"]


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as ids, and what must come next.

    Args:
        text: as given; empty is the unconditional prompt.
        tokens: BOS and the tokens of the text, the healed one left out.
        healed: bytes of the token left out; the continuation begins with them again.
        first_ids: ids that may come first; None: any.
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

    A text that ends within a word ends in a token that the model never saw there: after "def " a
    name follows, but in training the space is part of the name's token. So the last token is
    taken back, and the first new token is drawn among those that begin with its bytes.

    Args:
        n_longest: keep BOS and the end of a longer prompt; None: keep all.
        heal: False keeps the last token, as Meta's code, transformers and llama.cpp do.
    """
    ids = tokenizer.encode(text, bos=True)
    if n_longest is not None and len(ids) > n_longest:
        ids = [ids[0], *ids[len(ids) - (n_longest - 1) :]]
    if len(ids) < 2 or not heal:
        return EncodedPrompt(text, tuple(ids))
    spelt = functools.partial(tokenizer.decode_bytes, continued=True)
    last = spelt(ids[-1:])
    fitting = tuple(i for i in range(tokenizer.vocab_size) if spelt([i]).startswith(last))
    if len(fitting) < 2 or not last:
        return EncodedPrompt(text, tuple(ids))
    return EncodedPrompt(text, tuple(ids[:-1]), last, fitting)
