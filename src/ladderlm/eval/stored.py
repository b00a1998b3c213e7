"""Evaluations on disk.

Owns the two files of an evaluation, `<name>.npz` (one entry a document) and `<name>.json` (the
summary), and the key by which one that exists is used again. No torch.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ladderlm.data.shards import Split
from ladderlm.errors import DataError
from ladderlm.eval.config import Policy
from ladderlm.eval.subsets import DocumentLosses, summarise
from ladderlm.eval.texts import Texts
from ladderlm.files import publish, publish_json, read_json, sha256_file

__all__ = [
    "METER_VERSION",
    "StoredEvaluation",
    "evaluation_key",
    "find_evaluation",
    "load_losses",
    "save_evaluation",
]

METER_VERSION = 1  # raised by hand when the same weights and data would give other numbers


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation that was found on disk.

    Args:
        path: its JSON file.
        losses: per document.
        extra: everything in the JSON file.
    """

    path: Path
    losses: DocumentLosses
    extra: dict[str, Any]


def evaluation_key(weights: str, split: Split | Texts, policy: Policy) -> dict[str, Any]:
    """Return what decides the numbers: weights by hash, data by fingerprint, and the policy.

    Batches, packing, processes and device are no part of it: they do not change what is measured.

    Args:
        weights: SHA-256 of the checkpoint's weights.
    """
    return {
        "meter_version": METER_VERSION,
        "weights": weights,
        "split": split.name,
        "fingerprint": split.fingerprint,
        "policy": vars(policy),
    }


def save_evaluation(
    path: Path, losses: DocumentLosses, key: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    """Publish `path`.npz, then `path`.json, which makes it count; return what the latter holds.

    Args:
        path: without suffix.
        key: from `evaluation_key`.
        extra: what else to record with the summary.
    """
    arrays = {n: v for n, v in vars(losses).items() if n != "subset_names" and v is not None}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        subset_names=np.array(losses.subset_names, dtype=np.str_),
        **arrays,
    )
    npz = path.with_name(path.name + ".npz")
    publish(npz, lambda stream: stream.write(buffer.getvalue()))
    losses_file = {"file": npz.name, "sha256": sha256_file(npz)}
    summary = {**extra, "key": key, "losses": losses_file, "policy": key["policy"]}
    summary |= summarise(losses)
    publish_json(path.with_name(path.name + ".json"), summary)
    return summary


def load_losses(path: Path) -> DocumentLosses:
    """Read an `.npz` file written by `save_evaluation`.

    Raises:
        DataError: missing or not such a file.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["subset_names"])
            wanted = set(DocumentLosses.__dataclass_fields__) - {"subset_names"}
            if "text_hashes" not in arrays:
                wanted.remove("text_hashes")
            fields = {name: arrays[name] for name in wanted}
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"cannot read {path}: {error}", "", "run `ladderlm eval` again") from error
    return DocumentLosses(**fields, subset_names=names)


def find_evaluation(folder: Path, key: dict[str, Any]) -> StoredEvaluation | None:
    """Look for a whole evaluation of the same key; damaged ones are skipped.

    Args:
        folder: `evals/` of a run; it need not exist.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            extra = read_json(path)
            if not isinstance(extra, dict) or extra.get("key") != key:
                continue
            npz = path.with_suffix(".npz")
            if sha256_file(npz) != extra["losses"]["sha256"]:
                continue
            losses = load_losses(npz)
        except (DataError, OSError, KeyError, TypeError):
            continue
        if losses.text_hashes is not None:
            return StoredEvaluation(path, losses, extra)
    return None
