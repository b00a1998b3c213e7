"""Packing plans on disk, for corpora that take long to plan.

Owns the cache `DATA/plans/`: which documents share rows, under a name made of everything that
decides it. The cache only saves time: a plan whose file is missing or damaged is computed again.
"""

import contextlib
import hashlib
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ladderlm.config import content_hash
from ladderlm.data.best_fit import WINDOW_DOCUMENTS, link_tails
from ladderlm.data.config import DataConfig
from ladderlm.data.shards import Split
from ladderlm.errors import LadderError
from ladderlm.files import publish

__all__ = ["CACHED_FROM_DOCUMENTS", "cached_links", "plan_file"]

CACHED_FROM_DOCUMENTS = 1 << 20  # below, planning takes less than about two seconds
FORMAT_VERSION = 1
_log = logging.getLogger(__name__)


def plan_file(split: Split, config: DataConfig, epoch: int) -> Path | None:
    """Return the file of an epoch's plan; None if a cache would save no time."""
    if config.packing != "best-fit" or split.n_documents < CACHED_FROM_DOCUMENTS:
        return None
    key = {
        "format_version": FORMAT_VERSION,
        "data": split.fingerprint,
        "order_seed": config.order_seed,
        "epoch": epoch,
        "seq_len": config.seq_len,
        "policy": config.packing,
        "window": WINDOW_DOCUMENTS,
    }
    return split.shards[0][0].parent / "plans" / f"{content_hash(key)[:32]}.links"


def cached_links(file: Path, tails: NDArray[np.int64], room: int) -> NDArray[np.int32]:
    """Read the links of a plan, or compute them by `link_tails` and store them.

    Args:
        file: from `plan_file`. It holds a SHA-256 and the links as little-endian int32.
    """
    stored = b""
    with contextlib.suppress(OSError):
        stored = file.read_bytes()
    body = stored[32:]
    if len(body) == 4 * len(tails) and hashlib.sha256(body).digest() == stored[:32]:
        return np.frombuffer(body, dtype="<i4").astype(np.int32)
    if stored:
        _log.warning("%s is damaged; the plan is computed again", file)
    links = link_tails(tails, room)
    body = links.astype("<i4").tobytes()
    try:
        publish(file, lambda stream: stream.write(hashlib.sha256(body).digest() + body))
    except (OSError, LadderError) as error:
        _log.warning("the packing plan is not kept, so each start computes it again: %s", error)
    return links
