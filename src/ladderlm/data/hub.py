"""Files of datasets on the Hugging Face hub.

Owns addresses and the reading of the hub's cache on this disk, as the environment names them:
`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`. The cache is never
written to.
"""

import os
import re
from pathlib import Path

from ladderlm.data.web import hub_endpoint

__all__ = ["cached_file", "dataset_url", "is_offline"]


def is_offline() -> bool:
    """Say whether `HF_HUB_OFFLINE` forbids to ask the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")


def dataset_url(repository: str) -> str:
    """Give the address below which the files of a dataset lie."""
    return f"{hub_endpoint()}/datasets/{repository}/resolve/main"


def cached_file(repository: str, name: str) -> tuple[Path, str | None] | None:
    """Find a file in the hub's cache; give its place and the SHA-256 it should have.

    The cache keeps large files under their SHA-256, so that they can be checked; a name that is
    no SHA-256 gives None. A link that leads out of the dataset's folder is passed over.
    """
    folder = _cache() / f"datasets--{repository.replace('/', '--')}"
    reference = folder / "refs/main"
    if not reference.is_file():
        return None
    commit = reference.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return None
    file = (folder / "snapshots" / commit / name).resolve()
    if not file.is_file() or not file.is_relative_to(folder.resolve()):
        return None
    return file, file.name if re.fullmatch("[0-9a-f]{64}", file.name) else None


def _cache() -> Path:
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(user).expanduser() / "huggingface/hub"
    except RuntimeError:  # no home is known
        return Path(user) / "huggingface/hub"
