"""What differs from Meta's facebookresearch/llama.

Owns `MetaChange`, one row of the table in a report. Each room states its own rows beside its
options, and a test compares the choices that they name with those of the config.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MetaChange"]


@dataclass(frozen=True)
class MetaChange:
    """One part of the code, there and here.

    Args:
        part: what is compared.
        meta: what Meta's code does.
        ours: what ladderlm does.
        files: where, below src/ladderlm/.
        options: config option -> what it does, or each of its choices -> what that is;
            an empty text where the name says it.
    """

    part: str
    meta: str
    ours: str
    files: str
    options: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)

    @property
    def here(self) -> str:
        """What ladderlm does, with the options that decide on it."""
        parts = [self.ours]
        for option, does in self.options.items():
            if isinstance(does, str):
                parts.append(f"{option}: {does}")
            else:
                choices = (f"{name} ({words})" if words else name for name, words in does.items())
                parts.append(f"{option}: {', '.join(choices)}")
        return "; ".join(parts)
