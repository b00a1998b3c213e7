"""Losses per document, and the tables made from them.

Owns `DocumentLosses`, the official names of the Pile's subsets, and the summary over all documents
and per subset. No torch.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.eval.bootstrap import bootstrap_ratio
from ladderlm.metrics import LN_2, bits_per_byte

__all__ = [
    "PILE_SUBSETS",
    "DocumentLosses",
    "bootstrap_interval",
    "official_names",
    "summarise",
    "text_clusters",
]

# Source: Gao et al. 2020, table 1, as `meta.pile_set_name` spells them.
PILE_SUBSETS = (
    "ArXiv",
    "BookCorpus2",
    "Books3",
    "DM Mathematics",
    "Enron Emails",
    "EuroParl",
    "FreeLaw",
    "Github",
    "Gutenberg (PG-19)",
    "HackerNews",
    "NIH ExPorter",
    "OpenSubtitles",
    "OpenWebText2",
    "PhilPapers",
    "Pile-CC",
    "PubMed Abstracts",
    "PubMed Central",
    "StackExchange",
    "USPTO Backgrounds",
    "Ubuntu IRC",
    "Wikipedia (en)",
    "YoutubeSubtitles",
)


@dataclass(frozen=True)
class DocumentLosses:
    """What a model makes of each document; all arrays have one entry a document.

    Args:
        document_ids: int64, index in the split.
        subset_ids: int64, index into `subset_names`.
        n_bytes: int64, UTF-8 bytes of the raw text.
        n_tokens: int64, tokens of the text (BOS and EOS not counted).
        nats: float64, summed over the tokens of the text.
        eos_nats: float64, of the end-of-document token; NaN where a foreign tokenizer has none.
        subset_names: names of the subsets of the split.
        text_hashes: uint64, from `documents.hash_texts`; None where the texts were not looked at.
    """

    document_ids: NDArray[np.int64]
    subset_ids: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    n_tokens: NDArray[np.int64]
    nats: NDArray[np.float64]
    eos_nats: NDArray[np.float64]
    subset_names: tuple[str, ...]
    text_hashes: NDArray[np.uint64] | None = None


def text_clusters(losses: DocumentLosses) -> NDArray[np.int64]:
    """Number the documents so that those of one and the same text share a number.

    Copies of a text are one observation: counted as several they would narrow every interval.
    """
    if losses.text_hashes is None:
        return np.arange(len(losses.document_ids))
    return np.unique(losses.text_hashes, return_inverse=True)[1].astype(np.int64)


def bootstrap_interval(
    nats: NDArray[np.float64],
    n_bytes: NDArray[np.int64],
    clusters: NDArray[np.int64] | None = None,
) -> list[float] | None:
    """Return the 95 % interval of bits per byte over documents; None for too few of them."""
    return bootstrap_ratio(nats / LN_2, n_bytes, clusters).interval()


def _summarise_some(losses: DocumentLosses, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    ends = losses.eos_nats[chosen]
    ends = ends[~np.isnan(ends)]
    nats, eos_nats = (math.fsum(a.tolist()) for a in (losses.nats[chosen], ends))
    n_documents, n_tokens = int(chosen.sum()), int(losses.n_tokens[chosen].sum())
    n_bytes = int(losses.n_bytes[chosen].sum())
    n_scored = n_tokens + len(ends)
    loss = (nats + eos_nats) / n_scored if n_scored else math.nan
    return {
        "loss": loss,
        "bits_per_byte": bits_per_byte(nats, n_bytes),
        "perplexity": math.inf if loss > 700 else math.exp(loss),
        "n_documents": n_documents,
        "n_bytes": n_bytes,
        "n_tokens": n_tokens,
        "nats": nats,
        "eos_nats": eos_nats,
        "bytes_per_token": n_bytes / n_tokens if n_tokens else math.nan,
    }


def summarise(losses: DocumentLosses, with_interval: bool = True) -> dict[str, Any]:
    """Sum up all documents and each subset that occurs.

    `loss` is nats per scored token (text and EOS); `bits_per_byte` counts the text's nats alone,
    over the raw bytes of all documents together (the micro average). `macro_bits_per_byte` is the
    plain mean over subsets.

    Returns:
        The row of all documents, with `subsets` added.
    """
    everything = np.ones(len(losses.document_ids), dtype=bool)
    result = _summarise_some(losses, everything)
    clusters = text_clusters(losses)
    subsets = {}
    for subset_id in np.unique(losses.subset_ids):
        own = losses.subset_ids == subset_id
        row = subsets[losses.subset_names[subset_id]] = _summarise_some(losses, own)
        if with_interval:
            row["bits_per_byte_95"] = bootstrap_interval(
                losses.nats[own], losses.n_bytes[own], clusters[own]
            )
    rates = [row["bits_per_byte"] for row in subsets.values() if row["n_bytes"]]
    result["macro_bits_per_byte"] = math.fsum(rates) / len(rates) if rates else math.nan
    if with_interval:
        result["bits_per_byte_95"] = bootstrap_interval(losses.nats, losses.n_bytes, clusters)
    result["subsets"] = dict(sorted(subsets.items()))
    return result


def official_names(names: Collection[str]) -> dict[str, list[str]]:
    """Return how the names of subsets stand to the Pile's 22 official ones.

    Returns:
        Lists of names: `occurring` and `missing` of the official ones, `unknown` for the others.
    """
    return {
        "occurring": [name for name in PILE_SUBSETS if name in names],
        "missing": [name for name in PILE_SUBSETS if name not in names],
        "unknown": sorted(set(names) - set(PILE_SUBSETS)),
    }
