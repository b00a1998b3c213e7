"""Show text of unknown origin without obeying it.

Owns the spelling of characters that would move a cursor, turn a line round or show nothing.
"""

import unicodedata

__all__ = ["visible"]


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


def _hidden(char: str) -> bool:
    return unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"
