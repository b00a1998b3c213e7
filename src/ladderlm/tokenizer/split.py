"""Split a text into pieces before byte pairs are merged.

Owns Llama 3's split pattern, an implementation of it for machines without a regex library that has
Unicode classes, and the removal of very long runs of white space, on which such libraries are slow.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

__all__ = ["LONG_SPACES", "SPLIT_PATTERN", "cut_long_spaces", "has_long_spaces", "split_reference"]

# Llama 3's published pattern, verbatim: fast encoders, transformers and llama.cpp know it.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
LONG_SPACES = 250  # characters; tiktoken's time for a run grows with its square
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode White_Space


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] == "L"


def _is_number(char: str) -> bool:
    return unicodedata.category(char)[0] == "N"


def _is_space(char: str) -> bool:
    return char.isspace() and char not in "\x1c\x1d\x1e\x1f"  # Unicode White_Space, as in \s


def _run_end(text: str, at: int, accepts: Any, limit: int | None = None) -> int:
    end = at
    while end < len(text) and accepts(text[end]) and (limit is None or end - at < limit):
        end += 1
    return end


def _split_end(text: str, at: int) -> int:
    """Return the end of the piece that begins at `at`, by the first alternative that matches."""
    for suffix in _CONTRACTIONS:
        if text[at : at + len(suffix)].lower() == suffix:
            return at + len(suffix)
        if suffix == "'s" and text[at : at + 2] == "'\u017f":  # long s folds to s
            return at + 2
    char = text[at]
    begin = at if char in "\r\n" or _is_letter(char) or _is_number(char) else at + 1
    if char not in "\r\n" and (end := _run_end(text, begin, _is_letter)) > begin:
        return end
    if _is_number(char):
        return _run_end(text, at, _is_number, 3)
    begin = at + 1 if char == " " else at
    end = _run_end(text, begin, lambda c: not (_is_space(c) or _is_letter(c) or _is_number(c)))
    if end > begin:
        return _run_end(text, end, lambda c: c in "\r\n")
    end = _run_end(text, at, _is_space)
    last_newline = max(text.rfind("\n", at, end), text.rfind("\r", at, end))
    if last_newline >= 0:
        return last_newline + 1
    return end if end == len(text) or end == at + 1 else end - 1


def split_reference(text: str) -> Iterator[str]:
    """Split a text as `SPLIT_PATTERN` does, without a regex: `re` has no Unicode classes."""
    at = 0
    while at < len(text):
        end = _split_end(text, at)
        yield text[at:end]
        at = end


def has_long_spaces(text: str, limit: int = LONG_SPACES) -> bool:
    """Return whether a run of white space may reach `limit`, at the cost of a few characters.

    A run of `limit` covers at least one window of half that size. A run of more than half of it may
    return True as well.
    """
    step = limit // 2
    places = range(0, len(text) - step + 1, step)
    return any(text[at].isspace() and text[at : at + step].isspace() for at in places)


def cut_long_spaces(text: str, limit: int = LONG_SPACES) -> list[tuple[str, bool]]:
    r"""Cut long runs of white space out of a text, where `SPLIT_PATTERN` cuts anyway.

    Consider a maximal run of white space. A piece extends into it from the left only to take line
    ends after punctuation. So a cut is safe before a run that begins with another space, or that
    follows an ASCII letter or digit; after the leading line ends if other ASCII precedes them; and
    always after the run's last line end, where every piece that contains one stops. From there on
    `\s*[\r\n]+` matches everything up to the last line end, and `\s+(?!\S)` matches the rest,
    except its last character if a visible one follows. That character begins a new piece, since the
    pattern has no look-behind.

    Args:
        limit: shorter runs are not cut; at least 2.

    Returns:
        Parts whose ids, joined, are the ids of the text; True marks a part that is one piece.
    """
    if not has_long_spaces(text, limit):
        return [(text, False)]
    parts, done = [], 0
    for run in re.finditer(f"[{_SPACE}]{{{limit},}}", text):
        begin, end = run.span()
        line_end = max(text.rfind("\n", begin, end), text.rfind("\r", begin, end)) + 1
        if text[begin] in "\r\n" and begin:
            before = text[begin - 1]
            if not before.isascii():  # libraries may not agree whether it is a letter
                begin = line_end
            elif not before.isalnum():
                begin += len(run[0]) - len(run[0].lstrip("\r\n"))
        cuts = [begin, max(line_end, begin), end]
        if end < len(text):  # the last space may belong to what follows
            cuts[2] = max(end - 1, cuts[1]) if end - cuts[1] > 1 else cuts[1]
        parts.append((text[done:begin], False))
        parts += [(text[cuts[0] : cuts[1]], True), (text[cuts[1] : cuts[2]], True)]
        done = cuts[2]
    return [(part, whole) for part, whole in [*parts, (text[done:], False)] if part]
