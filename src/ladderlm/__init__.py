"""Train LLaMA-style language models from scratch, and find out which changes really help.

The names below load what they need when they are first used, so `import ladderlm` is cheap.
"""

import importlib
from typing import Any

__all__ = ["Study", "evaluate", "fit", "generate", "load", "train"]

_PLACES = {
    "Study": "ladderlm.study.study",
    "load": "ladderlm.run.open",
    "generate": "ladderlm.run.open",
    "train": "ladderlm.run.execute",
    "fit": "ladderlm.scaling.fit",
    "evaluate": "ladderlm.run.subject",
}
_NAMES = {"train": "execute", "evaluate": "evaluate_run", "generate": "complete"}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use (PEP 562)."""
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), _NAMES.get(name, name))
    raise AttributeError(f"module 'ladderlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names for completion."""
    return sorted(__all__)
