"""How much of a multiplier is the choice of validation documents.

Owns the paired bootstrap over documents: all runs of both arms are scored again on the same drawn
documents, and the pooled multiplier is taken again with the slopes held.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import LadderError
from ladderlm.eval.compare import require_same_bytes
from ladderlm.eval.stored import load_losses
from ladderlm.eval.subsets import DocumentLosses, text_clusters
from ladderlm.run.directory import RunDirectory
from ladderlm.scaling.compare import Comparison
from ladderlm.scaling.points import mean_weight
from ladderlm.study.results import Row

__all__ = ["resample_documents"]

N_DRAWS = 500
MIN_DOCUMENTS = 5


def resample_documents(rows: list[Row], pool: Path, comparison: Comparison) -> dict[str, Any]:
    """Draw documents with replacement and give the interval of the pooled multiplier.

    The trained models are held: this is the error of the sample of texts alone, which seeds do not
    show and which all rungs share. Copies of a text are drawn together.

    Returns:
        n_documents, n_draws, the 95 % interval of m and the sd of ln m; or {"problem": why}.
    """
    try:
        pairs = _read_pairs(rows, pool, comparison)
    except (LadderError, KeyError) as error:
        return {"problem": f"no losses of single documents: {error}".splitlines()[0]}
    first = next(iter(pairs.values()))[0][0]
    cluster = text_clusters(first)
    n = int(cluster.max()) + 1
    if n < MIN_DOCUMENTS:
        return {"problem": f"{n} different documents are too few to draw from"}
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_DRAWS)
    weights = drawn.astype(np.float64)[:, cluster]
    top, bottom = np.zeros(N_DRAWS), 0.0
    for rung in comparison.rungs:
        own = pairs[rung.rung]
        gains = [_log_rate(base, weights) - _log_rate(new, weights) for base, new in own]
        whole = np.ones((1, len(cluster)))
        stated = [_log_rate(base, whole) - _log_rate(new, whole) for base, new in own]
        # what the comparison added for a pair's difference in compute
        correction = float(np.mean(rung.log_m)) * rung.slope - float(np.mean(stated))
        weight = float(mean_weight(len(rung.log_m)))
        top += weight * rung.slope * (np.mean(gains, axis=0) + correction)
        bottom += weight * rung.slope**2
    log_m = top / bottom
    low, high = np.exp(np.quantile(log_m, [0.025, 0.975]))
    return {
        "n_documents": n,
        "n_draws": N_DRAWS,
        "low_95": float(low),
        "high_95": float(high),
        "sd_log_m": float(log_m.std(ddof=1)),
    }


def _log_rate(losses: DocumentLosses, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give ln(nats per byte) of every draw."""
    return np.asarray(np.log(weights @ losses.nats / (weights @ losses.n_bytes)))


def _read_pairs(
    rows: list[Row], pool: Path, comparison: Comparison
) -> dict[int, list[tuple[DocumentLosses, DocumentLosses]]]:
    """Load the final losses of every pair of runs that the comparison used."""
    ids = {
        (str(row["arm"]), int(row["rung"]), float(row["branch"]), int(row["seed"])): str(
            row["run_id"]
        )
        for row in rows
        if not row["excluded_because"]
    }
    found: dict[int, list[tuple[DocumentLosses, DocumentLosses]]] = {}
    reference: DocumentLosses | None = None
    for (arm, rung, branch, seed), run_id in sorted(ids.items()):
        other = ids.get((comparison.baseline, rung, branch, seed))
        if arm != comparison.variant or other is None:
            continue
        base, new = _read(pool / other), _read(pool / run_id)
        reference = reference or base
        for losses in (base, new):
            require_same_bytes(reference, losses)
        found.setdefault(rung, []).append((base, new))
    return found


def _read(folder: Path) -> DocumentLosses:
    directory = RunDirectory(folder)
    scores = directory.scores(directory.config().eval.split) or {}
    return load_losses(directory.evals / scores["losses"]["file"])
