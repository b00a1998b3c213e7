"""Losses per document, and the tables made from them.

Owns `DocumentLosses`, its file format and the summary over all documents and per subset, with
intervals from a bootstrap over documents. No torch.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.eval.config import Policy
from ladderlm.files import publish, publish_json
from ladderlm.metrics import bits_per_byte

__all__ = ["DocumentLosses", "bootstrap_interval", "load_losses", "save_losses", "summarise"]

N_BOOTSTRAP = 1000


@dataclass(frozen=True)
class DocumentLosses:
    """What a model makes of each document; all arrays have one entry a document.

    Args:
        document_ids: int64, index in the split.
        subset_ids: int64, index into `subset_names`.
        n_bytes: int64, UTF-8 bytes of the raw text.
        n_tokens: int64, tokens of the text (BOS and EOS not counted).
        nats: float64, summed over the tokens of the text.
        eos_nats: float64, of the end-of-document token.
        subset_names: names of the subsets of the split.
    """

    document_ids: NDArray[np.int64]
    subset_ids: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    n_tokens: NDArray[np.int64]
    nats: NDArray[np.float64]
    eos_nats: NDArray[np.float64]
    subset_names: tuple[str, ...]


def bootstrap_interval(
    nats: NDArray[np.float64], n_bytes: NDArray[np.int64], seed: int = 0
) -> tuple[float, float]:
    """Give the 95 % interval of bits per byte over documents: percentile bootstrap of a ratio.

    Source: Efron and Tibshirani 1993, section 13.3. One document gives (nan, nan).
    """
    n_documents = len(nats)
    if n_documents < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    draws = np.empty(N_BOOTSTRAP)
    for i in range(N_BOOTSTRAP):
        counts = np.bincount(rng.integers(0, n_documents, n_documents), minlength=n_documents)
        draws[i] = bits_per_byte(float(counts @ nats), int(counts @ n_bytes))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _row(losses: DocumentLosses, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    nats, eos_nats = float(losses.nats[chosen].sum()), float(losses.eos_nats[chosen].sum())
    n_documents, n_tokens = int(chosen.sum()), int(losses.n_tokens[chosen].sum())
    n_bytes = int(losses.n_bytes[chosen].sum())
    n_scored = n_tokens + n_documents
    return {
        "loss": (nats + eos_nats) / n_scored if n_scored else float("nan"),
        "bits_per_byte": bits_per_byte(nats, n_bytes),
        "perplexity": float(np.exp((nats + eos_nats) / n_scored)) if n_scored else float("nan"),
        "n_documents": n_documents,
        "n_bytes": n_bytes,
        "n_tokens": n_tokens,
        "nats": nats,
        "eos_nats": eos_nats,
    }


def summarise(losses: DocumentLosses, with_interval: bool = True) -> dict[str, Any]:
    """Sum up all documents and each subset that occurs.

    `loss` is nats per scored token (text and EOS); `bits_per_byte` counts the text's nats alone,
    over the raw bytes. `macro_bits_per_byte` is the plain mean over subsets.

    Returns:
        The row of all documents, with `subsets` beside it.
    """
    everything = np.ones(len(losses.document_ids), dtype=bool)
    result = _row(losses, everything)
    subsets = {}
    for subset_id in np.unique(losses.subset_ids):
        subsets[losses.subset_names[subset_id]] = _row(losses, losses.subset_ids == subset_id)
    rates = [row["bits_per_byte"] for row in subsets.values() if row["n_bytes"]]
    result["macro_bits_per_byte"] = float(np.mean(rates)) if rates else float("nan")
    if with_interval:
        result["bits_per_byte_95"] = list(bootstrap_interval(losses.nats, losses.n_bytes))
    result["subsets"] = dict(sorted(subsets.items()))
    return result


def save_losses(path: Path, losses: DocumentLosses, policy: Policy, extra: dict[str, Any]) -> None:
    """Publish `path`.npz with the arrays and `path`.json with the summary."""
    arrays = {n: v for n, v in vars(losses).items() if n != "subset_names"}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        subset_names=np.array(losses.subset_names, dtype=np.str_),
        **arrays,
    )
    publish(path.with_name(path.name + ".npz"), lambda stream: stream.write(buffer.getvalue()))
    summary = {**extra, "policy": vars(policy), **summarise(losses)}
    publish_json(path.with_name(path.name + ".json"), summary)


def load_losses(path: Path) -> DocumentLosses:
    """Read a file written by `save_losses`.

    Raises:
        DataError: missing or not such a file.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["subset_names"])
            fields = {
                n: arrays[n] for n in DocumentLosses.__dataclass_fields__ if n != "subset_names"
            }
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"cannot read {path}: {error}", "", "run `ladderlm eval` again") from error
    return DocumentLosses(**fields, subset_names=names)
