"""Made-up corpora for tests: small, seeded, with some structure to learn."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.data.shards import PreparedData, Split, SplitWriter

__all__ = ["SPLIT_BOS", "SPLIT_EOS", "make_records", "make_split", "make_text", "write_jsonl"]

WORDS = "the a of model loss token batch step rate layer def return for in print self".split()


def make_text(rng: random.Random, n_words: int) -> str:
    """Give a text with some structure to learn: lines of words with indents."""
    lines = []
    for _ in range(max(n_words // 8, 1)):
        lines.append("    " * rng.randint(0, 2) + " ".join(rng.choices(WORDS, k=8)))
    return "\n".join(lines) + "\n"


def make_records(n: int, seed: int = 0, n_words: int = 60) -> list[dict[str, Any]]:
    """Give records in the Pile's shape, in two subsets, all of different text."""
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
