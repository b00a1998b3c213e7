"""Train LLaMA-style language models from scratch, and find out which changes really help.

The public names are imported at their first use, so that `import ladderlm` is fast.
"""

import importlib
from typing import Any

__all__ = ["Study", "evaluate", "fit", "generate", "load", "train"]

_PLACES = {
    "Study": ("ladderlm.study.study", "Study"),
    "load": ("ladderlm.run.open", "load"),
    "generate": ("ladderlm.run.open", "complete"),
    "train": ("ladderlm.run.execute", "execute"),
    "fit": ("ladderlm.scaling.fit", "fit"),
    "evaluate": ("ladderlm.run.subject", "evaluate_run"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ladderlm' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted(__all__)
