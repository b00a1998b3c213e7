"""One evaluation: score a model on texts, or give the stored answer.

Owns the order of the steps (policy, key, stored answer, scoring, storing, summary) and the name of
what is stored. What is special about a model is its `Subject`: a run of ours or a foreign model.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from ladderlm.data.shards import PreparedData, Split
from ladderlm.dist import ALONE, Processes
from ladderlm.errors import ConfigError
from ladderlm.eval.config import EvaluationRequest, Policy
from ladderlm.eval.documents import check_split
from ladderlm.eval.meter import Scoring
from ladderlm.eval.stored import evaluation_key, find_evaluation, save_evaluation
from ladderlm.eval.subsets import DocumentLosses, official_names, summarise
from ladderlm.eval.texts import Texts, describe_source
from ladderlm.watch import UNWATCHED, Watch

__all__ = ["Evaluation", "Material", "Subject", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a split.

    Args:
        name: of the model, as it was asked for.
        losses: per document.
        summary: numbers, policy and where they come from, as plain values.
        path: the JSON file of the stored evaluation.
    """

    name: str
    losses: DocumentLosses
    summary: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class Material:
    """The documents of an evaluation.

    Args:
        what: tokens of prepared data, or raw texts.
        n_documents: how many are scored, from the first on.
        n_all: how many there are; None: not counted.
        source: from `describe_source`.
        data: what a split belongs to; None: of raw texts.
    """

    what: Split | Texts
    n_documents: int
    n_all: int | None
    source: dict[str, Any]
    data: PreparedData | None = None

    @classmethod
    def from_data(cls, data: PreparedData, name: str, n_documents: int) -> Self:
        """Take the first documents of a split.

        Raises:
            DataError: no such split, or its index is not the manifest's.
        """
        split = data.split(name)
        check_split(split, data.manifest["splits"][split.name])
        n_scored = min(n_documents, split.n_documents)
        return cls(split, n_scored, split.n_documents, describe_source(data, split), data)

    @classmethod
    def from_texts(cls, texts: Texts) -> Self:
        """Take all of some raw texts."""
        return cls(texts, len(texts.texts), texts.n_all, texts.source)


class Subject(Protocol):
    """A model to evaluate."""

    @property
    def name(self) -> str:
        """As the model was asked for."""
        ...

    @property
    def weights_hash(self) -> str:
        """SHA-256 of what decides its numbers."""
        ...

    @property
    def step(self) -> int | None:
        """Updates it had; None: unknown."""
        ...

    @property
    def evals(self) -> Path:
        """The folder of its stored evaluations."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Names of what `score` records in addition to the losses."""
        ...

    @property
    def default_context(self) -> int:
        """Tokens of a window where none is asked for."""
        ...

    @property
    def max_context(self) -> int:
        """Most tokens of a window."""
        ...

    def score(
        self, material: Material, policy: Policy, device: str, how: Scoring
    ) -> tuple[DocumentLosses, dict[str, Any]]:
        """Load the model and score; return the losses with hashes of the texts, and the notes."""
        ...

    def training(self, noted: dict[str, Any]) -> dict[str, Any]:
        """Return what the weights cost, given the notes of `score`."""
        ...


def evaluate(
    subject: Subject,
    material: Material,
    request: EvaluationRequest,
    processes: Processes = ALONE,
    watch: Watch = UNWATCHED,
) -> Evaluation:
    """Score a model document by document, or give the stored answer.

    Args:
        processes: share the work; the first one writes, all get the same result.
        watch: told (windows done, windows in all); where it stops, nothing is stored.

    Raises:
        LadderError: the model or the texts cannot be used as asked.
    """
    began = time.monotonic()
    policy = _policy(subject, request, material.n_documents)
    key = evaluation_key(subject.weights_hash, material.what, policy)
    stored = None if request.fresh else find_evaluation(subject.evals, key)
    stored = processes.share(stored)  # one process decides, in case a file appears meanwhile
    noted: dict[str, Any] = {
        "step": subject.step,
        "split": material.what.name,
        "split_documents": material.n_all,
    }
    if stored is not None:
        losses, path = stored.losses, stored.path
        noted |= {name: stored.extra[name] for name in subject.notes}
    else:
        how = Scoring(request.batch_tokens, request.packing, processes, watch)
        losses, more = subject.score(material, policy, request.device, how)
        noted |= more
        words = (material.what.fingerprint[:8], material.what.name, policy.name)
        path = subject.evals / f"{'-'.join(words)}-{subject.weights_hash[:8]}.json"
        if processes.first:
            save_evaluation(path.with_suffix(""), losses, key, noted)
    summary = noted | {
        "training": subject.training(noted),
        "source": material.source,
        "timing": {"seconds": time.monotonic() - began},
        "reused": stored is not None,
        "key": key,
        "policy": key["policy"],
    }
    summary |= summarise(losses)
    summary["pile"] = official_names(summary["subsets"])
    return Evaluation(subject.name, losses, summary, path)


def _policy(subject: Subject, request: EvaluationRequest, n_documents: int) -> Policy:
    context = subject.default_context if request.context is None else request.context
    if context > subject.max_context:
        raise ConfigError(
            f"--context must be at most the {subject.max_context} of {subject.name}, got {context}",
            "the model was made for no more positions",
            f"set --context to {subject.max_context} or less",
        )
    stride = context if request.stride is None else request.stride
    return Policy(context=context, stride=stride, n_documents=n_documents)
