"""Small SentencePiece models."""

import io
from typing import Any

import sentencepiece

from builders import make_records

__all__ = ["train_pieces"]

LLAMA = {
    "model_type": "bpe",
    "vocab_size": 400,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": True,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}


def train_pieces(**changes: Any) -> bytes:
    """Train a small model with the settings of LLaMA's."""
    model = io.BytesIO()
    lines = [line for r in make_records(100, seed=5) for line in r["text"].splitlines() if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=2, **{**LLAMA, **changes}
    )
    return model.getvalue()
