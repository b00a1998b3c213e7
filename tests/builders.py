"""Made-up corpora for tests: small, seeded, with some structure to learn."""

import json
import random
from pathlib import Path
from typing import Any

__all__ = ["make_records", "make_text", "write_jsonl"]

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
