"""Files of datasets on the Hugging Face hub.

Owns addresses, and the look-up of files in the hub's cache, which is never written to. Place and
layout of the cache, and whether the hub may be used, are decided by `huggingface_hub` from the
environment (`HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`).
"""

import re
from pathlib import Path

from ladderlm.corpus.web import hub_endpoint

__all__ = ["cached_file", "dataset_url", "is_offline"]


def is_offline() -> bool:
    """Return whether `HF_HUB_OFFLINE` forbids to use the hub."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def dataset_url(repository: str) -> str:
    """Return the address of the folder of a dataset's files."""
    return f"{hub_endpoint()}/datasets/{repository}/resolve/main"


def cached_file(repository: str, name: str) -> tuple[Path, str | None] | None:
    """Return the path of a file in the hub's cache, if it is there, and its expected SHA-256.

    The cache names large files by their SHA-256; it is None for others. A link that leads out of
    the dataset's folder is ignored.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, name, repo_type="dataset")
    except (OSError, ValueError):  # no name of a file in a repository, or an unreadable cache
        return None
    if not isinstance(found, str):  # not in the cache, or known not to exist
        return None
    dataset = Path(found).parents[len(Path(name).parts) + 1]  # above snapshots/COMMIT
    file = Path(found).resolve()
    if not file.is_relative_to(dataset.resolve()):
        return None
    return file, file.name if re.fullmatch("[0-9a-f]{64}", file.name) else None
