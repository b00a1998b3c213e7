"""Show text of unknown origin safely.

Owns the escaping of characters that would move the cursor, reverse a line or be invisible.
"""

import os
import unicodedata

__all__ = ["visible", "without_home"]


def visible(text: str, keep: str = "\n\t") -> str:
    r"""Return a text with control, format and line separating characters escaped as \\u{...}.

    Terminal escapes and right-to-left overrides can then do no harm. Letters of every script stay
    unchanged, and so do the characters of `keep`.
    """
    return "".join(
        char if char in keep or not _hidden(char) else f"\\u{{{ord(char):x}}}" for char in text
    )


def without_home(text: str) -> str:
    """Return a text with the path of the user's home replaced by ~."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path's raises for a user without a home
    return text.replace(home, "~") if len(home) > 1 else text


def _hidden(char: str) -> bool:
    return unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"
