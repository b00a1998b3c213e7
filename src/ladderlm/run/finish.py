"""The end of a run, and its summary.

Owns the final evaluations of the last and the best checkpoint, and `summary.json`.
"""

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from ladderlm.checkpoint.choose import ChosenCheckpoint
from ladderlm.checkpoint.layout import list_checkpoints
from ladderlm.checkpoint.load import load_weights, read_tensors
from ladderlm.dist import Processes
from ladderlm.errors import LadderError
from ladderlm.eval.documents import hash_texts
from ladderlm.eval.meter import score_documents
from ladderlm.eval.scorer import precision_of
from ladderlm.eval.stored import evaluation_key, save_evaluation
from ladderlm.files import publish_json, read_json
from ladderlm.run.directory import RunDirectory
from ladderlm.run.summary import describe_run
from ladderlm.training.run_config import RunConfig
from ladderlm.training.session import Session
from ladderlm.training.state import TrainState

__all__ = ["finish", "note_end", "write_summary"]

_log = logging.getLogger(__name__)


def finish(session: Session, directory: RunDirectory, state: TrainState) -> None:
    """Score the last and the best checkpoint, and the average, on all validation documents."""
    config, processes, val = session.config, session.processes, session.validation
    n_documents = min(config.eval.n_documents, val.n_documents)
    policy = replace(config.eval_policy, n_documents=n_documents)
    wanted = {"last": state.step}
    if state.best and state.best["step"] != state.step:
        wanted["best"] = state.best["step"]
    if state.average is not None:
        wanted["average"] = state.step
    found = {c.step: c for c in list_checkpoints(directory.checkpoints)}
    results: dict[str, Any] = {}
    for which, step in wanted.items():
        kind = "" if which == "last" else f"-{which}"
        name = f"{val.fingerprint[:8]}-{val.name}-{policy.name}{kind}"
        path = directory.evals / name
        if not path.with_name(name + ".json").exists():
            chosen = ChosenCheckpoint.verified(found[step], averaged=which == "average")
            weights, ids = read_tensors(chosen.weights_file), np.arange(n_documents)
            with state.sharding.whole(state.model, filled=False) as model:
                load_weights(model, weights, str(found[step].folder))
                losses = score_documents(model, val, ids, policy, session.scoring)
            if processes.first:
                losses = replace(losses, text_hashes=hash_texts(val, ids, session.tokenizer))
                key = evaluation_key(chosen.weights_hash, val, policy)
                extra = {"step": step, "split": val.name, "split_documents": val.n_documents}
                save_evaluation(path, losses, key, extra | {"precision": precision_of(state.model)})
        processes.wait()
        results[which] = read_json(path.with_name(name + ".json"))
    results.setdefault("best", results["last"])
    if processes.first:
        _log_final(session, directory, state, results["last"])
        write_summary(config, directory, state, "finished", {val.name: results})


def _log_final(
    session: Session, directory: RunDirectory, state: TrainState, result: dict[str, Any]
) -> None:
    """Add the full validation to metrics.jsonl, once."""
    split = session.validation.name
    if any(row.get("split") == split for row in directory.metrics("eval")):
        return
    row = {
        "kind": "eval",
        "step": state.step,
        "n_tokens": state.n_tokens,
        "flops": describe_run(session.config, directory, state.step)["flops"],
        "split": split,
        "loss": result["loss"],
        "bits_per_byte": result["bits_per_byte"],
        "subsets": {n: r["bits_per_byte"] for n, r in result["subsets"].items()},
        "policy": result["policy"],
        "timing": {"seconds": state.seconds},
    }
    session.logs.write(row)
    session.logs.sync()


def write_summary(
    config: RunConfig, directory: RunDirectory, state: TrainState, status: str, evals: Any
) -> None:
    """Publish `summary.json` at `state.step`."""
    summary = describe_run(config, directory, state.step)
    summary |= {"status": status, "restarts": state.restarts, "evals": evals}
    summary["n_tokens"] = state.n_tokens
    if state.branched_from is not None:
        summary["branched_from"] = state.branched_from
    if state.loss_scale is not None:
        summary["n_skipped"] = state.loss_scale.n_skipped
    summary["best_step"] = state.best.get("step")
    summary["timing"]["seconds"] = state.seconds
    publish_json(directory.summary_file, summary)


def note_end(directory: RunDirectory, processes: Processes, status: str, reason: str) -> None:
    """Write into the summary why the run is not finished."""
    if processes.first and directory.summary_file.exists():
        try:
            summary = read_json(directory.summary_file) | {"status": status, "reason": reason}
            publish_json(directory.summary_file, summary)
        except LadderError:  # a full disk must not hide the first error
            _log.exception("could not note the end of the run")
