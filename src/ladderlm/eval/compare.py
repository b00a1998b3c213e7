"""Which of two models predicts the same bytes better, and how sure is that?

Owns the paired bootstrap over documents: the difference in bits per byte, over all documents, in
the mean over subsets and in each subset. No torch.
"""

import math
from typing import Any

import numpy as np

from ladderlm.errors import DataError
from ladderlm.eval.bootstrap import MIN_CLUSTERS, Bootstrap, bootstrap_ratio, holm, mean_of
from ladderlm.eval.subsets import DocumentLosses, text_clusters
from ladderlm.metrics import LN_2, bits_per_byte

__all__ = ["METHOD", "N_DRAWS", "compare_losses", "require_same_bytes"]

N_DRAWS = 9999  # the smallest p they can give is 0.0001
METHOD = (
    f"paired bootstrap over documents ({N_DRAWS:,} resamples, symmetric bootstrap-t, 95 %); "
    f"copies of a text are drawn together; fewer than {MIN_CLUSTERS} different texts get no "
    "interval; p of the subsets is corrected by Holm's method for looking at all of them"
)


def require_same_bytes(
    one: DocumentLosses, other: DocumentLosses, names: tuple[str, str] = ("one run", "the other")
) -> None:
    """Refuse two evaluations that were not made on the very same texts.

    Their tokens may differ: bits per byte does not depend on the tokenizer.

    Args:
        names: of the two, for the message.

    Raises:
        DataError: says in what they differ.
    """
    reason = _why_incomparable(one, other, names)
    if reason:
        raise DataError(
            f"{names[0]} and {names[1]} cannot be compared: {reason}",
            "a difference in bits per byte means something on identical bytes only",
            "score both with the same --split and --max-documents, on data prepared from the same "
            "files (with each run's own tokenizer)",
        )


def _why_incomparable(
    one: DocumentLosses, other: DocumentLosses, names: tuple[str, str]
) -> str | None:
    n, m = len(one.document_ids), len(other.document_ids)
    if n != m:
        return f"{names[0]} was scored on {n:,} documents, {names[1]} on {m:,}"
    if one.text_hashes is None or other.text_hashes is None:
        missing = names[0] if one.text_hashes is None else names[1]
        return f"the texts that {missing} was scored on are not recorded"
    other_text = (one.text_hashes != other.text_hashes) | (one.n_bytes != other.n_bytes)
    if other_text.any():
        first = int(np.flatnonzero(other_text)[0])
        return (
            f"{int(other_text.sum()):,} of {n:,} documents hold another text, the first is number "
            f"{int(one.document_ids[first])} ({int(one.n_bytes[first]):,} bytes against "
            f"{int(other.n_bytes[first]):,})"
        )
    for place in range(n):
        labels = [x.subset_names[x.subset_ids[place]] for x in (one, other)]
        if labels[0] != labels[1]:
            number = int(one.document_ids[place])
            return (
                f"document {number} is in subset {labels[0]!r} of one, {labels[1]!r} of the other"
            )
    return None


def compare_losses(
    one: DocumentLosses,
    other: DocumentLosses,
    names: tuple[str, str] = ("one run", "the other"),
    seed: int = 0,
) -> dict[str, Any]:
    """Return how much better or worse `one` is than `other`: negative differences favour `one`.

    Returns:
        `micro` (all bytes), `macro` (mean over subsets) and `subsets`, each with both bits per
        byte, their difference, its 95 % interval and p; `n_documents`, `n_texts`, `method`.

    Raises:
        DataError: not scored on identical bytes.
    """
    require_same_bytes(one, other, names)
    clusters = text_clusters(one)
    difference = (one.nats - other.nats) / LN_2
    everything = np.ones(len(difference), dtype=bool)
    subset_ids = [int(i) for i in np.unique(one.subset_ids[one.n_bytes > 0])]
    chosen = [everything] + [one.subset_ids == i for i in subset_ids]
    boots = [
        bootstrap_ratio(difference[own], one.n_bytes[own], clusters[own], N_DRAWS, seed + k)
        for k, own in enumerate(chosen)
    ]
    rows = [
        _compared(boot, *(_bits_per_byte(x, own) for x in (one, other)))
        | {"n_documents": int(own.sum()), "n_bytes": int(one.n_bytes[own].sum())}
        for boot, own in zip(boots, chosen, strict=True)
    ]
    for row, corrected in zip(rows[1:], holm([row["p"] for row in rows[1:]]), strict=True):
        row["p_holm"] = corrected
    means = [math.fsum(row[key] for row in rows[1:]) / max(len(rows) - 1, 1) for key in _BOTH]
    labels = [one.subset_names[i] for i in subset_ids]
    return {
        "run": names[0],
        "against": names[1],
        "micro": rows[0],
        "macro": _compared(mean_of(boots[1:]), means[0], means[1]),
        "subsets": dict(sorted(zip(labels, rows[1:], strict=True))),
        "n_documents": len(difference),
        "n_texts": len(np.unique(clusters)),
        "method": METHOD,
    }


_BOTH = ("bits_per_byte", "against_bits_per_byte")


def _bits_per_byte(losses: DocumentLosses, own: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    return bits_per_byte(math.fsum(losses.nats[own].tolist()), int(losses.n_bytes[own].sum()))


def _compared(boot: Bootstrap, rate: float, against: float) -> dict[str, Any]:
    return {
        **dict(zip(_BOTH, (rate, against), strict=True)),
        "difference": boot.estimate,
        "difference_95": boot.interval(),
        "p": boot.p_value(),
    }
