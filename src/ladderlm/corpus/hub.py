"""Files of datasets on the Hugging Face hub.

Owns addresses, and what is taken from the hub's cache on this disk. Where that cache is, how it is
laid out and whether the hub may be asked are the business of `huggingface_hub`, which reads the
environment (`HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`). The cache is never written to.
"""

import re
from pathlib import Path

from ladderlm.corpus.web import hub_endpoint

__all__ = ["cached_file", "dataset_url", "is_offline"]


def is_offline() -> bool:
    """Return whether `HF_HUB_OFFLINE` forbids to ask the hub."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def dataset_url(repository: str) -> str:
    """Return the address below which the files of a dataset lie."""
    return f"{hub_endpoint()}/datasets/{repository}/resolve/main"


def cached_file(repository: str, name: str) -> tuple[Path, str | None] | None:
    """Find a file in the hub's cache; return its place and the SHA-256 it should have.

    The cache keeps large files under their SHA-256, so that they can be checked; a name that is
    no SHA-256 gives None. A link that leads out of the dataset's folder is skipped.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, name, repo_type="dataset")
    except (OSError, ValueError):  # no name of a file in a repository, or an unreadable cache
        return None
    if not isinstance(found, str):  # not there, or known not to exist
        return None
    dataset = Path(found).parents[len(Path(name).parts) + 1]  # above snapshots/COMMIT
    file = Path(found).resolve()
    if not file.is_relative_to(dataset.resolve()):
        return None
    return file, file.name if re.fullmatch("[0-9a-f]{64}", file.name) else None
