"""Everything a report says, gathered from run and study folders.

Owns `gather`: a pure function from folders to plain values, so that a report can be checked by
gathering again. Draws and writes nothing.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.config import to_dict
from ladderlm.data.baselines import trivial_models
from ladderlm.data.config import DataConfig
from ladderlm.data.inspect import row_pieces
from ladderlm.data.shards import PreparedData, Split, open_data
from ladderlm.data.stream import RowStream
from ladderlm.errors import ConfigError, DataError
from ladderlm.files import read_json, to_json
from ladderlm.model.accounting import count_params
from ladderlm.report.studies import StudyFacts
from ladderlm.run.directory import RunDirectory
from ladderlm.study.ladder import name_rung
from ladderlm.text import without_home
from ladderlm.tokenizer.base import RECORD, Tokenizer
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.train.run_config import RunConfig

__all__ = ["FACTS_VERSION", "data_facts", "facts_of", "gather"]

FACTS_VERSION = 1
N_EXAMPLE_DOCUMENTS = 3
EXAMPLE_CHARACTERS = 600
EXAMPLE_TOKENS = 96
MAX_TRIVIAL_BYTES = 100_000_000  # training text that the byte models count
Facts = dict[str, Any]


def gather(
    runs: list[Path], studies: list[Path], home: Path, trivial: Facts | None = None
) -> Facts:
    """Read runs and studies.

    Args:
        runs: run folders beside those of the studies.
        studies: study folders.
        home: folder of the report; places in the facts are relative to it.
        trivial: what `data_facts` gave before for the same data, to save the time.

    Raises:
        ConfigError: nothing to report.
        LadderError: a folder is not what it should be.
    """
    read = [StudyFacts.read(folder, home) for folder in studies]
    return facts_of(runs, read, home, trivial)


def facts_of(
    runs: list[Path], studies: Sequence[StudyFacts], home: Path, trivial: Facts | None = None
) -> Facts:
    """Return the facts of runs and of studies that have been read; see `gather`."""
    found = [study.to_json() for study in studies]
    names = [study["name"] for study in found]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two studies of one name: {', '.join(names)}",
            "figures and verdicts of a report are told apart by it",
            "report on them one by one",
        )
    places = [Path(run) for run in runs]
    for study in studies:
        pool = home / study.folder / study.about.pool
        places += [pool / row.run_id for row in study.results if row.status != "missing"]
    unique = list({os.path.realpath(place): place for place in places}.values())
    rows = [_run(place, home) for place in unique]
    finished = [row for row in rows if row["status"] == "finished" and _is_scored(row)]
    if not finished:
        raise ConfigError(
            "there is no finished run with a finite loss to report on",
            "a report shows measured numbers",
            "let a run or a study end first",
        )
    for row in rows:
        row["roles"] = _roles(row["run_id"], studies)
    best = min(finished, key=lambda row: float(row["bits_per_byte"]))
    best_folder = unique[rows.index(best)]
    facts: Facts = {
        "facts_version": FACTS_VERSION,
        "best": best["run_id"],
        "runs": rows,
        "studies": found,
        "curves": _curves(RunDirectory(best_folder)),
        "samples": _samples(RunDirectory(best_folder)),
        "data": data_facts(RunDirectory(best_folder).config(), trivial),
        "forecast_check": _forecast_check(best, rows, studies),
    }
    normal: Facts = _normal(facts)
    return normal


def _is_scored(run: Facts) -> bool:
    values = [run[key] for key in ("loss", "bits_per_byte", "last_loss", "last_bits_per_byte")]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _normal(value: Any) -> Any:
    """Bring values into the form they have after a trip through JSON."""
    return json.loads(to_json(value, indent=None))


def _run(folder: Path, home: Path) -> Facts:
    """Read one run: what it is, what it cost, what came out."""
    directory = RunDirectory(folder)
    config, summary = directory.config(), directory.summary() or {}
    environment = directory.environment()
    split = config.eval.split
    final = summary.get("evals", {}).get(split, {})
    best = final.get("best", {})
    scored = ("n_documents", "n_bytes", "n_tokens", "split_documents", "policy")
    keep = (*scored, "subsets", "macro_bits_per_byte", "bits_per_byte_95", "perplexity")
    return {
        "run_id": config.run_id,
        "folder": os.path.relpath(folder, home),
        "status": summary.get("status", "not finished"),
        "reason": without_home(str(summary["reason"])) if summary.get("reason") else None,
        "split": split,
        "bits_per_byte": best.get("bits_per_byte"),
        "loss": best.get("loss"),
        "best_step": best.get("step"),
        "last_bits_per_byte": final.get("last", {}).get("bits_per_byte"),
        "last_loss": final.get("last", {}).get("loss"),
        "evaluation": {key: best.get(key) for key in keep},
        "n_params": summary.get("n_params") or _params(config),
        "n_steps": summary.get("n_steps", 0),
        "n_positions": summary.get("n_positions", 0),
        "n_tokens": summary.get("n_tokens", 0),
        "flops": summary.get("flops", 0.0),
        "flops_6nd": summary.get("flops_6nd", 0.0),
        "restarts": summary.get("restarts", 0),
        "timing": summary.get("timing", {}),
        "config": _without_places(to_dict(config)),
        "hardware": environment.get("hardware"),
        "device": environment.get("device"),
        "n_threads": environment.get("n_threads"),
        "world_size": environment.get("world_size", 1),
        "versions": environment.get("versions", {})
        | {"python": environment.get("python"), "ladderlm": environment.get("ladderlm")},
        "platform": environment.get("platform"),
        "commit": environment.get("commit"),
    }


def _params(config: RunConfig) -> dict[str, int]:
    counts = count_params(config.model)
    return {**vars(counts), "total": counts.total, "n_matmul": counts.n_matmul}


def _without_places(config: Facts) -> Facts:
    """Drop folders: they are nobody's business and differ between machines."""
    config["out"] = None
    config["data"]["path"] = None
    config["eval"]["path"] = None
    return config


def _roles(run_id: str, studies: Sequence[StudyFacts]) -> list[str]:
    """Return where a run stands in the studies."""
    return [
        f"{study.about.name}: {row.arm}, rung {name_rung(row.rung, row.branch)}, seed {row.seed}"
        for study in studies
        for row in study.results
        if row.run_id == run_id
    ]


def _curves(directory: RunDirectory) -> Facts:
    """Give the logged training loss and the validations of one run."""
    head = [
        row for row in directory.metrics("eval") if str(row.get("split")).startswith("val-head")
    ]
    keep_train = ("step", "n_tokens", "flops", "loss", "learning_rate", "grad_norm")
    keep_eval = ("step", "n_tokens", "flops", "loss", "bits_per_byte")
    return {
        "train": [{k: row.get(k) for k in keep_train} for row in directory.metrics("train")],
        "validation": [{k: row.get(k) for k in keep_eval} for row in head],
        "head": head[0]["policy"] | {"split": head[0]["split"]} if head else None,
    }


def _samples(directory: RunDirectory) -> Facts:
    """Give the texts written at the last checkpoint."""
    rows = directory.samples()
    last = max((row["step"] for row in rows), default=0)
    chosen = [row for row in rows if row["step"] == last]
    return {
        "step": last,
        "unconditional": [row for row in chosen if not row["prompt"]],
        "conditional": [row for row in chosen if row["prompt"]],
        "first": [row for row in rows if row["step"] == min(r["step"] for r in rows)][:1],
    }


def _forecast_check(best: Facts, runs: list[Facts], studies: Sequence[StudyFacts]) -> Facts | None:
    """Hold the best run against the law of the study whose recipe it shares, if there is one."""
    recipes = {run["run_id"]: _recipe(run["config"]) for run in runs}
    for study in [] if best["roles"] else studies:
        law, rows = study.fits.law, study.results
        same = [row.arm for row in rows if recipes.get(row.run_id) == recipes[best["run_id"]]]
        if law is not None and same and same[0] in law.arms and 1.0 in law.branches:
            found = law.predict(same[0], np.array([float(best["flops"])]))
            top = max(row.flops for row in rows)
            return {
                "study": study.about.name,
                "arm": same[0],
                "times_the_top_rung": float(best["flops"]) / top,
                "predicted_bits_per_byte": float(found[0]),
                "actual_bits_per_byte": best["last_bits_per_byte"],
                "relative_error": float(found[0]) / best["last_bits_per_byte"] - 1,
            }
    return None


def _recipe(config: Facts) -> Facts:
    """Give a run's config without what a ladder varies."""
    shape = ("dim", "n_layers", "n_heads", "n_kv_heads", "max_seq_len")
    return {
        "model": {k: v for k, v in config["model"].items() if k not in shape},
        "optim": config["optim"],
        "data": {k: v for k, v in config["data"].items() if k != "order_seed"},
        "precision": config["train"]["precision"],
        "eval": [config["eval"]["fingerprint"], config["eval"]["context"]],
    }


def data_facts(config: RunConfig, trivial: Facts | None = None) -> Facts:
    """Describe the data of a run: sizes, examples, batches, and models that need no training.

    A run whose data is no longer there gives {"problem": ...}.
    """
    try:
        data = open_data(config.data.path or "")
        train, val = data.split(config.data.split), data.split(config.eval.split)
    except DataError as error:
        return {"problem": error.what.replace(str(config.data.path), "the data folder")}
    tokenizer = load_tokenizer(data.tokenizer_folder)
    described = {
        "fingerprint": data.manifest["fingerprint"],
        "tokenizer": {
            "fingerprint": data.tokenizer_fingerprint,
            "vocab_size": data.vocab_size,
            "trained_on": read_json(data.tokenizer_folder / RECORD).get("trained_on"),
        },
        "splits": {name: _split_facts(data, name) for name in (train.name, val.name)},
        "overlap": data.manifest["overlap"],
        "corpus": _corpus(data),
        "examples": _example_documents(train, tokenizer),
        "batches": [
            _example_batch(data, train, tokenizer, config.data),
            _example_batch(data, train, tokenizer, replace(config.data, packing="padded")),
        ],
    }
    key = [train.fingerprint, val.fingerprint]
    if trivial is not None and trivial.get("key") == key:
        return described | {"trivial": trivial}
    return described | {"trivial": {"key": key} | _trivial(train, val, tokenizer, config)}


def _split_facts(data: PreparedData, name: str) -> Facts:
    entry = data.manifest["splits"][name]
    keep = ("n_documents", "n_bytes", "n_tokens", "subsets", "skipped", "fingerprint")
    return {key: entry[key] for key in keep} | {"sources": entry["request"]["sources"]}


def _corpus(data: PreparedData) -> Facts | None:
    """Read the corpus.json beside the sources, where `fetch` has written one."""
    beside = data.path.parent / "corpus" / "corpus.json"
    if not beside.is_file():
        return None
    corpus = read_json(beside)
    return {key: corpus[key] for key in ("fingerprint", "n_bytes", "packages", "skipped")}


def _example_documents(split: Split, tokenizer: Tokenizer) -> list[Facts]:
    """Give the beginnings of the first documents of different subsets."""
    examples: list[Facts] = []
    seen: set[int] = set()
    for index in range(split.n_documents):
        subset = int(split.subset_ids[index])
        if subset not in seen and len(examples) < N_EXAMPLE_DOCUMENTS:
            seen.add(subset)
            ids = split.document(index).tolist()
            text = tokenizer.decode(ids)
            examples.append(
                {
                    "document": index,
                    "subset": split.subset_names[subset],
                    "n_bytes": int(split.n_bytes[index]),
                    "n_tokens": len(ids),
                    "text": text[:EXAMPLE_CHARACTERS],
                    "cut": len(text) > EXAMPLE_CHARACTERS,
                }
            )
    return examples


def _example_batch(
    data: PreparedData, split: Split, tokenizer: Tokenizer, config: DataConfig
) -> Facts:
    """Give a row that holds the end of a document, token by token where it changes."""
    stream = RowStream(split, config, data.bos_id)
    n_rows = min(256, stream.rows_per_epoch)
    batch = stream.rows(0, n_rows)
    padded = config.packing == "padded"
    row = next(
        (
            r
            for r in range(n_rows)
            if batch.segment_ids[r].min() < (0 if padded else 1)
            and batch.segment_ids[r].max() > (-1 if padded else 0)
        ),
        0,
    )
    pieces = row_pieces(batch, row, split, tokenizer)
    border = pieces[1].start if len(pieces) > 1 else 0
    begin = max(0, min(border - EXAMPLE_TOKENS // 2, config.seq_len - EXAMPLE_TOKENS))
    tokens = []
    for t in range(begin, min(begin + EXAMPLE_TOKENS, config.seq_len)):
        real = bool(batch.segment_ids[row, t] >= 0)
        token, target = int(batch.tokens[row, t]), int(batch.targets[row, t])
        tokens.append(
            {
                "place": t,
                "token": _spell(token, tokenizer) if real else None,
                "target": _spell(target, tokenizer) if batch.loss_mask[row, t] else None,
                "segment": int(batch.segment_ids[row, t]),
                "position": int(batch.positions[row, t]),
            }
        )
    return {
        "packing": config.packing,
        "row": row,
        "seq_len": config.seq_len,
        "n_targets": int(batch.loss_mask[row].sum()),
        "pieces": [
            {k: getattr(p, k) for k in ("start", "n_tokens", "document", "subset", "n_targets")}
            for p in pieces
        ],
        "tokens": tokens,
    }


def _spell(token: int, tokenizer: Tokenizer) -> str:
    if token == tokenizer.bos_id:
        return "<BOS>"
    return "<EOS>" if token == tokenizer.eos_id else tokenizer.decode([token], continued=True)


def _trivial(train: Split, val: Split, tokenizer: Tokenizer, config: RunConfig) -> Facts:
    """Score the documents that the run is scored on by models that need no training run."""
    n_documents = min(config.eval.n_documents, val.n_documents)
    texts = [tokenizer.decode_bytes(val.document(i).tolist()) for i in range(n_documents)]
    n_train, n_bytes = 0, 0
    while n_train < train.n_documents and n_bytes < MAX_TRIVIAL_BYTES:
        n_bytes += int(train.n_bytes[n_train])
        n_train += 1
    learned = (tokenizer.decode_bytes(train.document(i).tolist()) for i in range(n_train))
    found = trivial_models(learned, texts)
    return found | {"n_train_documents": n_train, "n_train_bytes": n_bytes}
