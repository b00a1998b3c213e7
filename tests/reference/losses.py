"""Made-up losses of documents, with a known truth."""

import numpy as np

from ladderlm.eval.subsets import DocumentLosses

__all__ = ["NAMES", "make_losses", "with_difference"]

NAMES = ("Code", "Prose", "Unused")


def make_losses(n: int = 30, seed: int = 0, hashed: bool = False) -> DocumentLosses:
    """Make losses of `n` documents in two subsets; some documents are empty."""
    rng = np.random.default_rng(seed)
    n_tokens = rng.integers(0, 40, n)
    return DocumentLosses(
        document_ids=np.arange(n),
        subset_ids=rng.integers(0, 2, n),
        n_bytes=n_tokens * 3,
        n_tokens=n_tokens,
        nats=n_tokens * rng.uniform(1, 3, n),
        eos_nats=rng.uniform(0, 9, n),
        subset_names=NAMES,
        text_hashes=np.arange(n, dtype=np.uint64) * 977 if hashed else None,
    )


def with_difference(
    losses: DocumentLosses, bits_per_byte: dict[str, float], noise: float, seed: int = 0
) -> DocumentLosses:
    """Add a true difference to every subset named, and noise in bits per byte to each document."""
    rng = np.random.default_rng(seed)
    labels = [losses.subset_names[i] for i in losses.subset_ids]
    shift = np.array([bits_per_byte.get(label, 0.0) for label in labels])
    shift = shift + noise * rng.normal(size=len(shift))
    nats = losses.nats + np.log(2) * losses.n_bytes * shift
    return DocumentLosses(**{**vars(losses), "nats": nats})
