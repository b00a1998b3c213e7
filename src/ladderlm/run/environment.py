"""The machine and software of a run.

Owns `environment.json`: versions, hardware, threads, commit, command line. No environment
variables, host names or home paths are recorded.
"""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ladderlm.machine import describe_hardware
from ladderlm.text import without_home

__all__ = ["BARE_PACKAGES", "describe_environment"]

# All that `python -m ladderlm.run` needs beyond the standard library. A run whose tokenizer needs
# another package names it before the first sample; a byte-level BPE needs none: without tiktoken
# our own slow encoder produces the same ids.
BARE_PACKAGES = ("torch", "numpy", "safetensors")
_PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "tiktoken", "scipy", "matplotlib")


def describe_environment(n_threads: int, device: str) -> dict[str, Any]:
    """Return this process's machine and software."""
    return {
        "ladderlm": _version("ladderlm"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "hardware": describe_hardware(device),
        "device": device,
        "n_threads": n_threads,
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "commit": _commit(),
        "command": [without_home(word) for word in sys.argv],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the source tree, with "+" if it has uncommitted changes."""
    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
