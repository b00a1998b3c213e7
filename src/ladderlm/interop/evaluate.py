"""Other people's models on our meter: from a folder to a stored evaluation.

Owns the framing of documents by a foreign tokenizer, what is said of texts that it changes, and
where the answer is stored. The meter itself is in `eval/`, the model in `causal_lm.py`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.config import content_hash
from ladderlm.dist import Processes
from ladderlm.errors import ConfigError
from ladderlm.eval.config import Policy
from ladderlm.eval.meter import Packing, meter_documents
from ladderlm.eval.scorer import Scorer
from ladderlm.eval.stored import evaluation_key, find_evaluation, save_evaluation
from ladderlm.eval.subsets import DocumentLosses
from ladderlm.eval.texts import Texts, encode_texts, read_texts
from ladderlm.files import read_json, sha256_file
from ladderlm.interop.causal_lm import Framing, open_causal_lm, open_framing
from ladderlm.interop.hub import ForeignModel, model_files
from ladderlm.model.precision import float32_matmul
from ladderlm.run.evaluate import Evaluation, EvaluationRequest, describe_losses, precision_of
from ladderlm.run.machine import settle_matmul
from ladderlm.train.config import ExecutionConfig

__all__ = ["evaluate_foreign", "score_texts"]

LONGEST_DEFAULT = 2048  # tokens of context where none is asked for


def evaluate_foreign(
    model: ForeignModel,
    request: EvaluationRequest,
    place: Path | str,
    out: Path,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score a foreign model document by document, or give the stored answer.

    Args:
        request: its `data` and `checkpoint` have no meaning here.
        place: prepared data (of any tokenizer) or corpus files: where the texts come from.
        out: folder of evaluations; the model's own folder is never written to.
        processes, progress, check: as in `run.evaluate.evaluate_run`.

    Raises:
        LadderError: the model, its tokenizer or the text cannot be used as asked.
    """
    began = time.monotonic()
    own = model.folder if model.commit is None else model.folder.parent.parent
    if out.resolve().is_relative_to(own.resolve()):
        raise ConfigError(
            f"--out {out} lies in the folder of the model",
            "a model's folder, and the hub's cache, stay as they are",
            "name another folder",
        )
    hashes = {path.name: sha256_file(path) for path in model_files(model.folder)}
    texts = read_texts(place, request.split, request.n_documents, check)
    longest = _longest(model.folder)
    context = min(longest, LONGEST_DEFAULT) if request.context is None else request.context
    if context > longest:
        raise ConfigError(
            f"--context {context} is longer than the {longest} of {model.name}",
            "it was made for no more positions",
            "choose a shorter one",
        )
    stride = context if request.stride is None else request.stride
    policy = Policy(context=context, stride=stride, n_documents=len(texts.texts))
    weights = content_hash(hashes)
    key = evaluation_key(weights, texts, policy)
    stored = None if request.fresh else find_evaluation(out, key)
    if processes is not None:  # one process decides, in case a file appears meanwhile
        stored = processes.share(stored)
    if stored is not None:
        losses, path, noted = stored.losses, stored.path, stored.extra
    else:
        losses, noted = _score(model, request, texts, policy, processes, progress, check)
        name = f"{texts.fingerprint[:8]}-{texts.name}-{policy.name}-{weights[:8]}"
        path = out / f"{name}.json"
        if processes is None or processes.first:
            save_evaluation(path.with_suffix(""), losses, key, noted)
    kept = ("step", "split", "split_documents", "precision", "foreign", "text")
    shown = {
        "training": {"run_id": None, "n_params": noted["foreign"]["n_params"], "flops": None},
        "source": texts.source,
        "reused": stored is not None,
        "timing": {"seconds": time.monotonic() - began},
    }
    summary = describe_losses(losses, key, {name: noted[name] for name in kept} | shown)
    return Evaluation(model.name, losses, summary, path)


def _longest(folder: Path) -> int:
    """Read the longest context from a config; a model without a table of positions has no end."""
    values = read_json(folder / "config.json")
    tables = [values, values.get("text_config")]
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
    stated = [table.get(name) for table in tables if isinstance(table, dict) for name in names]
    return next((number for number in stated if type(number) is int), 2**40)


def _score(
    model: ForeignModel,
    request: EvaluationRequest,
    texts: Texts,
    policy: Policy,
    processes: Processes | None,
    progress: Callable[[int, int], None] | None,
    check: Callable[[], None],
) -> tuple[DocumentLosses, dict[str, Any]]:
    """Score, and say what must be known to read the numbers."""
    framing = open_framing(model.folder)
    scorer = open_causal_lm(model.folder, request.device)
    where = ExecutionConfig(device="cpu" if request.device == "cpu" else "cuda")
    _, matmul = settle_matmul(where)
    with float32_matmul(matmul["setting"]):
        losses, text = score_texts(
            scorer,
            framing,
            texts,
            policy,
            request.batch_tokens,
            processes,
            check,
            progress,
            request.packing,
        )
    from transformers import __version__ as version

    architectures = scorer.model.config.architectures or [type(scorer.model).__name__]
    return losses, {
        "step": None,
        "split": texts.name,
        "split_documents": texts.n_all,
        "precision": precision_of(scorer.model),
        "foreign": {
            "architecture": architectures[0],
            "commit": model.commit,
            "transformers": version,
            "n_params": {"total": scorer.n_params},
        },
        "text": text,
    }


def score_texts(
    scorer: Scorer,
    framing: Framing,
    texts: Texts,
    policy: Policy,
    batch_tokens: int = 8192,
    processes: Processes | None = None,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
    packing: Packing = "rows",
) -> tuple[DocumentLosses, dict[str, Any]]:
    """Score every token of every text once; arguments as in `meter_documents`.

    Without BOS the EOS stands before a text. With neither, nothing stands before the first token:
    it is charged ln V, the price of a guess among all V tokens, so that no byte comes for free.

    Returns:
        The losses, and what begins and ends a document, and how many texts the tokenizer changes
        (their tokens do not give the text back). For those bits per byte is a figure of the
        changed text over the bytes of the raw one.
    """
    bare = framing.encode(texts.texts, check)
    before = [] if framing.begin_id is None else [framing.begin_id]
    after = [] if framing.end_id is None else [framing.end_id]
    documents = [[*before, *ids, *after] for ids in bare]
    losses = meter_documents(
        scorer,
        encode_texts(texts, documents),
        np.arange(len(documents)),
        policy,
        batch_tokens,
        processes,
        check,
        progress,
        packing,
    )
    n_tokens = np.array([len(ids) for ids in bare], dtype=np.int64)
    nats, eos_nats = losses.nats, losses.eos_nats
    if not after:  # what the meter took for the EOS was the last token of the text
        nats, eos_nats = nats + eos_nats, np.full(len(nats), math.nan)
    if not before:
        nats = nats + np.where(n_tokens > 0, math.log(scorer.vocab_size), 0.0)
    changed = np.array(
        [framing.decode(ids) != text for ids, text in zip(bare, texts.texts, strict=True)]
    )
    described = framing.describe() | {
        "n_changed_documents": int(changed.sum()),
        "n_changed_bytes": int(losses.n_bytes[changed].sum()),
    }
    losses = replace(
        losses, nats=nats, eos_nats=eos_nats, n_tokens=n_tokens, text_hashes=texts.hashes
    )
    return losses, described
