"""The dependence of a multiplier on the choice of validation documents.

Owns the paired bootstrap over documents: the losses of all runs of both arms are averaged over the
same drawn documents, and the pooled multiplier is computed again with the slopes fixed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import LadderError
from ladderlm.eval.compare import require_same_bytes
from ladderlm.eval.stored import load_losses
from ladderlm.eval.subsets import DocumentLosses, text_clusters
from ladderlm.run.directory import RunDirectory
from ladderlm.scaling.compare import Comparison
from ladderlm.scaling.points import mean_weight
from ladderlm.study.records import NoAnswer
from ladderlm.study.results import Results

__all__ = ["DocumentInterval", "resample_documents"]

N_DRAWS = 500
MIN_DOCUMENTS = 5


@dataclass(frozen=True)
class DocumentInterval:
    """95 % interval of m, and sd of ln m, over draws of the validation documents."""

    n_documents: int
    n_draws: int
    low_95: float
    high_95: float
    sd_log_m: float


def resample_documents(
    results: Results, pool: Path, comparison: Comparison
) -> DocumentInterval | NoAnswer:
    """Draw documents with replacement, and compute the interval of the pooled multiplier.

    The trained models are fixed: this is the error of the sample of texts alone, which seeds do not
    show and all rungs share. Copies of a text are drawn together.
    """
    try:
        pairs = _read_pairs(results, pool, comparison)
    except (LadderError, KeyError) as error:
        return NoAnswer(f"no losses of single documents: {error}".splitlines()[0])
    first = next(iter(pairs.values()))[0][0]
    cluster = text_clusters(first)
    n = int(cluster.max()) + 1
    if n < MIN_DOCUMENTS:
        return NoAnswer(f"{n} different documents are too few to draw from")
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_DRAWS)
    weights = drawn.astype(np.float64)[:, cluster]
    whole = np.ones((1, len(cluster)))
    top, bottom = np.zeros(N_DRAWS), 0.0
    for rung in comparison.rungs:
        own = pairs[rung.rung]
        gains = [_log_rate(base, weights) - _log_rate(new, weights) for base, new in own]
        stated = [_log_rate(base, whole) - _log_rate(new, whole) for base, new in own]
        # the comparison's correction for a pair's difference in compute
        correction = float(np.mean(rung.log_m)) * rung.slope - float(np.mean(stated))
        weight = float(mean_weight(len(rung.log_m)))
        top += weight * rung.slope * (np.mean(gains, axis=0) + correction)
        bottom += weight * rung.slope**2
    log_m = top / bottom
    low, high = np.exp(np.quantile(log_m, [0.025, 0.975]))
    return DocumentInterval(n, N_DRAWS, float(low), float(high), float(log_m.std(ddof=1)))


def _log_rate(losses: DocumentLosses, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln(nats per byte) of every draw."""
    return np.asarray(np.log(weights @ losses.nats / (weights @ losses.n_bytes)))


def _read_pairs(
    results: Results, pool: Path, comparison: Comparison
) -> dict[int, list[tuple[DocumentLosses, DocumentLosses]]]:
    """Load the final losses of every pair of runs of a comparison, by rung."""
    ids = {(row.arm, row.rung, row.branch, row.seed): row.run_id for row in results.compared}
    found: dict[int, list[tuple[DocumentLosses, DocumentLosses]]] = {}
    reference: DocumentLosses | None = None
    for (arm, rung, branch, seed), run_id in sorted(ids.items()):
        other = ids.get((comparison.baseline, rung, branch, seed))
        if arm != comparison.variant or other is None:
            continue
        base, new = _final_losses(pool / other), _final_losses(pool / run_id)
        reference = reference or base
        for losses in (base, new):
            require_same_bytes(reference, losses)
        found.setdefault(rung, []).append((base, new))
    return found


def _final_losses(folder: Path) -> DocumentLosses:
    directory = RunDirectory(folder)
    scores = directory.scores(directory.config().eval.split) or {}
    return load_losses(directory.evals / scores["losses"]["file"])
