"""From new token ids to text that may be shown at once.

Owns `TextStream`: whole characters only, and nothing of a stop string, wherever the borders of
tokens lie.
"""

import codecs
from collections.abc import Sequence

from ladderlm.errors import ConfigError
from ladderlm.tokenizer.base import Tokenizer

__all__ = ["TextStream"]


class TextStream:
    """Turn one text's tokens into pieces to show.

    Args:
        tokenizer: decodes them.
        stop: strings that end the text and are left out; found across the borders of tokens. The
            first that is complete counts.
        healed: bytes at the front that belong to the prompt, see `encode_prompt`.
        continued: the tokens follow others; SentencePiece writes the first word of a text without
            the space that its token has.

    Attributes:
        text: everything that was given out.
        stopped: whether a stop string was met; later tokens are ignored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        healed: bytes = b"",
        continued: bool = False,
    ) -> None:
        if "" in stop:
            raise ConfigError("an empty stop string", "it ends every text before it begins")
        self.tokenizer, self.stop, self.n_skipped = tokenizer, tuple(stop), len(healed)
        self.continued = continued
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.held = ""  # may be the front of a stop string
        self.text, self.stopped = "", False

    def add(self, token: int) -> str:
        """Take a token; give the text that is safe to show now, which may be empty."""
        raw = self.tokenizer.decode_bytes([token], continued=self.continued)
        self.continued |= bool(raw)
        skipped, raw = raw[: self.n_skipped], raw[self.n_skipped :]
        self.n_skipped -= len(skipped)
        return self._give(self.utf8.decode(raw))

    def finish(self) -> str:
        """Give what was held back; bytes that are not UTF-8 become U+FFFD."""
        shown = self._give(self.utf8.decode(b"", final=True))
        if not self.stopped:
            self.text += self.held
            shown, self.held = shown + self.held, ""
        return shown

    def _give(self, new: str) -> str:
        if self.stopped:
            return ""
        pending = self.held + new
        # the one that is complete first, so that the borders of tokens play no part
        met = [(at + len(stop), at) for stop in self.stop if (at := pending.find(stop)) >= 0]
        if met:
            self.stopped, self.held = True, ""
            shown = pending[: min(met)[1]]
        else:
            n_held = max((_overlap(pending, stop) for stop in self.stop), default=0)
            at = len(pending) - n_held
            shown, self.held = pending[:at], pending[at:]
        self.text += shown
        return shown


def _overlap(text: str, stop: str) -> int:
    """Give the length of the longest end of `text` that is a front of `stop`, not all of it."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
