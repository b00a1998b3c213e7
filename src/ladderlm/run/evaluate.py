"""Meter a run: from its folder to a stored evaluation.

Owns the choice of checkpoint and data, the proof that tokens and raw text agree, and the use of an
evaluation that is stored already. The arithmetic is in `eval/`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ladderlm.data.shards import PreparedData, Split, open_data
from ladderlm.dist import Processes
from ladderlm.errors import ConfigError
from ladderlm.eval.config import Policy
from ladderlm.eval.documents import check_counts, hash_texts, known_texts
from ladderlm.eval.meter import Documents, Packing, score_documents
from ladderlm.eval.stored import evaluation_key, find_evaluation, save_evaluation
from ladderlm.eval.subsets import DocumentLosses, official_names, summarise
from ladderlm.eval.texts import Texts, describe_source, encode_texts, read_texts
from ladderlm.model.precision import float32_matmul
from ladderlm.run.directory import RunDirectory
from ladderlm.run.machine import settle_matmul
from ladderlm.run.open import open_chosen
from ladderlm.run.summary import describe_run
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.train.config import ExecutionConfig
from ladderlm.train.run_config import RunConfig

__all__ = [
    "Evaluation",
    "EvaluationRequest",
    "data_of",
    "describe_losses",
    "evaluate_run",
    "precision_of",
]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What is to be scored, and how.

    Args:
        data: folders of prepared data, of which the first with the run's tokenizer is taken, or
            corpus files; empty: the run's own.
        split: which split.
        n_documents: the first this many, or all there are.
        context, stride: see `Policy`; None: as the run was validated, and no overlap.
        checkpoint: a step, a folder's name, "last", "best" or "average", that of the weights over
            the run; None: the newest good one.
        fresh: score again even if the answer is stored.
        batch_tokens, packing, device: how it is carried out; do not change what is scored.
    """

    data: Sequence[Path | str] = ()
    split: str = "val"
    n_documents: int = 10_000
    context: int | None = None
    stride: int | None = None
    checkpoint: str | None = None
    fresh: bool = False
    batch_tokens: int = 8192
    packing: Packing = "rows"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.n_documents < 1:
            raise ConfigError(f"--max-documents {self.n_documents}", "it is at least 1")
        if self.batch_tokens < 1:
            raise ConfigError(f"--batch-tokens {self.batch_tokens}", "it is at least 1")


@dataclass(frozen=True)
class Evaluation:
    """What a run makes of a split.

    Args:
        name: of the run, as it was asked for.
        losses: per document.
        summary: numbers, policy and where they come from, as plain values.
        path: the JSON file of the stored evaluation.
    """

    name: str
    losses: DocumentLosses
    summary: dict[str, Any]
    path: Path


def evaluate_run(
    run: Path | str,
    request: EvaluationRequest,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score a run's checkpoint document by document, or give the stored answer.

    Args:
        processes: share the work; the first one writes, all get the same result.
        progress: told (windows done, windows in all).
        check: called often; may raise to stop early, and then nothing is stored.

    Raises:
        LadderError: the run, its checkpoint or the data cannot be used as asked.
    """
    directory = RunDirectory(run)
    config = directory.config()
    chosen = directory.choose(request.checkpoint)
    weights = chosen.weights_hash
    material = _open_material(request, directory, check)
    policy = _policy(request, config, material.n_documents)
    key = evaluation_key(weights, material.what, policy)
    stored = None if request.fresh else find_evaluation(directory.evals, key)
    if processes is not None:  # one process decides, in case a file appears meanwhile
        stored = processes.share(stored)
    began = time.monotonic()
    if stored is not None:
        losses, path, precision = stored.losses, stored.path, stored.extra["precision"]
    else:
        hashes = material.prove()
        model = open_chosen(directory, chosen, request.device).model
        precision = precision_of(model)
        where = ExecutionConfig(device="cpu" if request.device == "cpu" else "cuda")
        _, matmul = settle_matmul(where)
        with float32_matmul(matmul["setting"]):
            losses = score_documents(
                model,
                material.documents,
                np.arange(material.n_documents),
                policy,
                batch_tokens=request.batch_tokens,
                processes=processes,
                check=check,
                progress=progress,
                packing=request.packing,
            )
        losses = replace(losses, text_hashes=hashes)
        what = material.what
        name = f"{what.fingerprint[:8]}-{what.name}-{policy.name}-{weights[:8]}"
        path = directory.evals / f"{name}.json"
    noted = {
        "step": chosen.step,
        "split": material.what.name,
        "split_documents": material.n_all,
        "precision": precision,
    }
    shown = {
        "training": _training(directory, config, chosen.step),
        "source": material.source,
        "timing": {"seconds": time.monotonic() - began},
    }
    if stored is None and (processes is None or processes.first):
        save_evaluation(path.with_suffix(""), losses, key, noted)
    summary = describe_losses(losses, key, noted | shown | {"reused": stored is not None})
    return Evaluation(str(run), losses, summary, path)


def describe_losses(
    losses: DocumentLosses, key: dict[str, Any], noted: dict[str, Any]
) -> dict[str, Any]:
    """Give the summary of an evaluation.

    Args:
        key: from `evaluation_key`.
        noted: what else to say: where it came from, what it cost.
    """
    summary = noted | {"key": key, "policy": key["policy"]} | summarise(losses)
    return summary | {"pile": official_names(summary["subsets"])}


def precision_of(model: nn.Module) -> str:
    """Name the dtype of a model's weights, for example float32."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _policy(request: EvaluationRequest, config: RunConfig, n_documents: int) -> Policy:
    context = config.eval_context if request.context is None else request.context
    if context > config.model.max_seq_len:
        raise ConfigError(
            f"--context {context} is longer than the model's {config.model.max_seq_len}",
            "it was made for no more positions",
            "choose a shorter one",
        )
    return Policy(
        context=context,
        stride=context if request.stride is None else request.stride,
        n_documents=n_documents,
    )


def data_of(directory: RunDirectory) -> Path:
    """Give the folder of the data that a run is validated on.

    Raises:
        ConfigError: the run does not say.
    """
    config = directory.config()
    own = config.eval.path or config.data.path
    if own is None:
        raise ConfigError("no data is named", "the run does not say where it lay", "add --data DIR")
    return Path(own)


@dataclass(frozen=True)
class _Material:
    """Documents as the run's tokenizer cuts them.

    Args:
        what: by name and fingerprint.
        n_documents: how many are scored, from the first on.
        n_all: how many there are; None: not counted.
        source: as `describe_source` gives it.
        prove: compare tokens with the raw texts; gives the texts' hashes.
    """

    documents: Documents
    what: Split | Texts
    n_documents: int
    n_all: int | None
    source: dict[str, Any]
    prove: Callable[[], NDArray[np.uint64]]


def _open_material(
    request: EvaluationRequest, directory: RunDirectory, check: Callable[[], None]
) -> _Material:
    """Open the first data that has the run's tokenizer, or the first corpus files."""
    paths = [Path(path) for path in request.data] or [data_of(directory)]
    tokenizer = load_tokenizer(directory.path / "tokenizer")
    for path in paths:
        if path.exists() and not (path / "manifest.json").exists():
            texts = read_texts(path, request.split, request.n_documents, check)
            return _from_texts(texts, tokenizer)
        data = open_data(path)
        if data.tokenizer_fingerprint == tokenizer.fingerprint:
            return _from_data(data, request, tokenizer, check)
    raise ConfigError(
        f"{', '.join(map(str, paths))} was prepared with another tokenizer than {directory.path} "
        "was trained with",
        "token ids would mean other texts to the model",
        f"prepare the text with --tokenizer {directory.path}/tokenizer",
    )


def _from_data(
    data: PreparedData,
    request: EvaluationRequest,
    tokenizer: Tokenizer,
    check: Callable[[], None],
) -> _Material:
    split = data.split(request.split)
    check_counts(split, data.manifest["splits"][split.name])
    n = min(request.n_documents, split.n_documents)
    return _Material(
        documents=split,
        what=split,
        n_documents=n,
        n_all=split.n_documents,
        source=describe_source(data, split),
        prove=lambda: hash_texts(split, np.arange(n), tokenizer, known_texts(data, split), check),
    )


def _from_texts(texts: Texts, tokenizer: Tokenizer) -> _Material:
    """Encode raw texts, which are their own proof."""
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    documents = [[bos, *ids, eos] for ids in tokenizer.encode_batch(texts.texts)]
    return _Material(
        documents=encode_texts(texts, documents),
        what=texts,
        n_documents=len(texts.texts),
        n_all=texts.n_all,
        source=texts.source,
        prove=lambda: texts.hashes,
    )


def _training(directory: RunDirectory, config: RunConfig, step: int) -> dict[str, Any]:
    """Say what the weights cost; of a converted model that is not known."""
    described = describe_run(config, directory, step)
    if not directory.environment_file.is_file():
        described |= {"n_positions": None, "flops": None}
    return {name: described[name] for name in ("run_id", "n_params", "n_positions", "flops")}
