"""Differences from Meta's facebookresearch/llama.

Owns `MetaChange`, one row of the table in a report. Each room states its own rows next to its
options, and a test compares the choices that they name with those of the config.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MetaChange"]


@dataclass(frozen=True)
class MetaChange:
    """Comparison of one part of Meta's code with ours.

    Args:
        part: name of the part.
        meta: description of Meta's code.
        ours: description of our code.
        files: our files, relative to src/ladderlm/.
        options: description of each config option, or of each of its choices. An empty text
            means that the name is enough.
    """

    part: str
    meta: str
    ours: str
    files: str
    options: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)

    @property
    def here(self) -> str:
        """Description of our code with its options, in one line."""
        parts = [self.ours]
        for option, text in self.options.items():
            if not isinstance(text, str):
                text = ", ".join(
                    f"{name} ({words})" if words else name for name, words in text.items()
                )
            parts.append(f"{option}: {text}")
        return "; ".join(parts)
