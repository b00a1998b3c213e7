"""Text from new token ids, shown while it is generated.

Owns `TextStream`, which returns whole characters only and no part of a stop string, however the
tokens split them.
"""

import codecs
from collections.abc import Sequence

from ladderlm.config import require
from ladderlm.tokenizer.base import Tokenizer

__all__ = ["TextStream"]


class TextStream:
    """Decoder of one text's tokens into pieces to show.

    Args:
        stop: strings that end the text and are left out, also where they span tokens. The first
            complete one counts.
        healed: bytes at the start that belong to the prompt, see `encode_prompt`.
        continued: the tokens follow others; SentencePiece writes the first word of a text without
            the space that its token has.

    Attributes:
        text: all text returned so far.
        stopped: whether a stop string was found; later tokens are ignored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        healed: bytes = b"",
        continued: bool = False,
    ) -> None:
        require("a stop string", "''", "" not in stop, "have at least one character")
        self.tokenizer, self.stop, self.n_skipped = tokenizer, tuple(stop), len(healed)
        self.continued = continued
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.held = ""  # may be the start of a stop string
        self.text, self.stopped = "", False

    def add(self, token: int) -> str:
        """Add a token and return the text that is safe to show now, which may be empty."""
        raw = self.tokenizer.decode_bytes([token], continued=self.continued)
        self.continued |= bool(raw)
        n_skipped = min(self.n_skipped, len(raw))
        self.n_skipped -= n_skipped
        return self._release(self.utf8.decode(raw[n_skipped:]))

    def finish(self) -> str:
        """Return the text held back so far; bytes that are not UTF-8 become U+FFFD."""
        shown = self._release(self.utf8.decode(b"", final=True))
        if not self.stopped:
            self.text += self.held
            shown, self.held = shown + self.held, ""
        return shown

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        pending = self.held + new
        # the one that ends first, so that the result does not depend on how tokens split the text
        met = [(at + len(stop), at) for stop in self.stop if (at := pending.find(stop)) >= 0]
        if met:
            self.stopped, self.held, shown = True, "", pending[: min(met)[1]]
        else:
            at = len(pending) - max((_overlap(pending, stop) for stop in self.stop), default=0)
            shown, self.held = pending[:at], pending[at:]
        self.text += shown
        return shown


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
