"""Show text of unknown origin without obeying it.

Owns the spelling of characters that would move a cursor, turn a line round or show nothing.
"""

import os
import unicodedata

__all__ = ["visible", "without_home"]


def visible(text: str, keep: str = "\n\t") -> str:
    r"""Make control, format and line separating characters visible as \\u{...}.

    Terminal escapes, right-to-left overrides and the like can then do no harm. Letters of every
    script stay as they are.

    Args:
        keep: of those characters, the ones that are left alone.
    """
    return "".join(
        char if char in keep or not _hidden(char) else f"\\u{{{ord(char):x}}}" for char in text
    )


def without_home(text: str) -> str:
    """Return a text without the path of the user's home in it."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path's raises for a user without a home
    return text.replace(home, "~") if len(home) > 1 else text


def _hidden(char: str) -> bool:
    return unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"
