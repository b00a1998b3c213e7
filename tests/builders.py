"""Made-up corpora and studies for tests: small, seeded, with some structure to learn."""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.config import from_dict, read_config_file
from ladderlm.data.shard_writer import SplitWriter
from ladderlm.data.shards import PreparedData, Split
from ladderlm.errors import LadderError
from ladderlm.executors.base import Job, State
from ladderlm.study.results import Row
from ladderlm.training.run_config import RunConfig

__all__ = [
    "SPLIT_BOS",
    "SPLIT_EOS",
    "TINY_LADDER",
    "InOwnProcess",
    "content_of",
    "make_records",
    "make_row",
    "make_split",
    "make_text",
    "tiny_study",
    "toml_of",
    "write_jsonl",
    "write_study",
]

WORDS = "the a of model loss token batch step rate layer def return for in print self".split()


def make_text(rng: random.Random, n_words: int) -> str:
    """Return a text with some structure to learn: lines of words with indents."""
    lines = []
    for _ in range(max(n_words // 8, 1)):
        lines.append("    " * rng.randint(0, 2) + " ".join(rng.choices(WORDS, k=8)))
    return "\n".join(lines) + "\n"


def make_records(n: int, seed: int = 0, n_words: int = 60) -> list[dict[str, Any]]:
    """Return records in the Pile's shape, in two subsets, all of different text."""
    rng = random.Random(seed)
    return [
        {
            "text": f"{seed}-{i} " + make_text(rng, rng.randint(8, 2 * n_words)),
            "meta": {"pile_set_name": "Prose" if i % 3 else "Code"},
        }
        for i in range(n)
    ]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records as plain JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def content_of(folder: Path | str) -> dict[str, str]:
    """Return name -> SHA-256 of all files below a folder but the lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


SPLIT_BOS, SPLIT_EOS = 1, 2


def make_split(folder: Path, lengths: Sequence[int], shard_tokens: int = 1 << 20) -> Split:
    """Write and open a split of documents of given lengths, BOS and EOS in.

    All other tokens are different, counting up from 3, so that each place can be recognised.
    """
    writer = SplitWriter(folder, "train", np.dtype("<u4"), shard_tokens)
    next_id = 3
    for i, length in enumerate(lengths):
        middle = range(next_id, next_id + length - 2)
        next_id += len(middle)
        writer.add(np.array([SPLIT_BOS, *middle, SPLIT_EOS]), length, "even" if i % 2 else "odd")
    tokenizer = {"vocab_size": 2**31, "bos_id": SPLIT_BOS, "eos_id": SPLIT_EOS, "fingerprint": "f"}
    manifest = {"tokenizer": tokenizer, "dtype": "<u4", "splits": {"train": writer.finish({})}}
    return PreparedData(folder, manifest).split("train", verify=False)


# Three rungs that fit the grid of shapes of `tiny_study` at half a token a parameter.
TINY_LADDER = (2.27e8, 4.53e8, 6.73e8)


def tiny_study(data: Path, **changes: Any) -> dict[str, Any]:
    """Return a study file as a dict: two arms on three rungs of a fraction of a second each.

    Args:
        changes: replace whole tables; None leaves one out.
    """
    values: dict[str, Any] = {
        "name": "tiny",
        "question": "Is SwiGLU better than GELU?",
        "rationale": "A test.",
        "base": {
            "data": str(data),
            "model": {"dim": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 32, "multiple_of": 8},
            "data.seq_len": 32,
            "train.global_batch_tokens": 256,
            "train.log_every_steps": 1,
            "optim.learning_rate": 0.03,
            "checkpoint.every_steps": 100,
            "eval": {"n_evals": 3, "head_tokens": 300, "n_samples": 1, "sample_tokens": 8},
            "execution.device": "cpu",
        },
        "ladder": {
            "flops": list(TINY_LADDER),
            "tokens_per_param": 0.5,
            "aspect_ratio": 16,
            "min_updates": 10,
            "seeds": [1],
            "noise_seeds": 0,
        },
        "arm": [{"name": "swiglu"}, {"name": "gelu", "set": {"model.mlp": "gelu"}}],
    }
    values |= changes
    return {key: value for key, value in values.items() if value is not None}


def toml_of(value: Any) -> str:
    """Spell a value as inline TOML."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {toml_of(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def write_study(path: Path, values: dict[str, Any]) -> Path:
    """Write a study file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(key)} = {toml_of(value)}\n" for key, value in values.items())
    path.write_text("".join(lines), encoding="utf-8")
    return path


def make_row(**changes: Any) -> Row:
    """Return a finished run of a ladder that is compared, with some of its values changed."""
    known: dict[str, Any] = {"study": "tiny", "run_id": "r", "config_hash": "r", "arm": "base"}
    known |= {"role": "ladder", "rung": 0, "seed": 1, "dim": 16, "n_layers": 1, "cluster": "r"}
    known |= {"params": 100, "tokens": 1000, "n_steps": 10, "global_batch_tokens": 100}
    known |= {"learning_rate": 0.01, "flops": 1e9, "flops_spent": 1e9, "status": "finished"}
    return Row(**known | {"excluded_because": ""} | changes)


class InOwnProcess:
    """An executor that carries out runs at once, in this process: no start-up time."""

    def __init__(self) -> None:
        self.started: list[str] = []  # names of the jobs, each try
        self.codes: dict[str, int] = {}

    def submit(self, job: Job) -> str:
        """Run a job of `python -m ladderlm.run CONFIG.json` to its end."""
        from ladderlm.run.execute import execute

        self.started.append(job.name)
        handle = f"own-{len(self.started)}"
        config = from_dict(RunConfig, read_config_file(job.argv[-1]))
        try:
            execute(config)
            self.codes[handle] = 0
        except LadderError as error:
            self.codes[handle] = error.exit_code
        return handle

    def poll(self, handle: str) -> State:
        """Return how it ended."""
        return State.FAILED if self.codes[handle] else State.DONE

    def cancel(self, *handles: str) -> None:
        """Do nothing: they have ended."""

    def reattach(self, job: Job) -> None:
        """Return None: nothing goes on by itself."""

    def exit_code(self, handle: str) -> int | None:
        """Return its code."""
        return self.codes[handle]
