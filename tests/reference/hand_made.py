"""Hand-made batches, splits and models, with every number in sight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ladderlm.data.batch import Batch
from ladderlm.data.shards import Split
from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.transformer import Transformer

__all__ = ["make_batch", "make_model", "make_split", "strip_timing", "weights_of"]


def make_model(seed: int = 0, **fields: Any) -> Transformer:
    """Build a tiny model with random weights, head and gains included, far from any symmetry."""
    shape = {"dim": 16, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "vocab_size": 50}
    model = Transformer(ModelConfig(**{**shape, "multiple_of": 8, **fields}))
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if name.endswith("norm.weight"):
                weight.copy_(1 + 0.3 * torch.randn(weight.shape, generator=generator))
            elif name.startswith("value_embeddings."):  # which start at zero
                weight.copy_(torch.randn(weight.shape, generator=generator))
        model.output.weight.mul_(10)  # the initial head is near zero
    return model


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the weights by name as float64 arrays."""
    return {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}


def make_batch(rows: Sequence[Sequence[Sequence[int]]], seq_len: int) -> Batch:
    """Make a batch: each row holds documents, each document is a run of token ids.

    A run of n ids gives n - 1 pairs of input and target; what is left of the row is padding.
    """
    shape = (len(rows), seq_len)
    tokens, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments, documents = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    positions = np.zeros(shape, np.int64)
    n_documents = 0
    for i, row in enumerate(rows):
        at = 0
        for segment, ids in enumerate(row):
            n = len(ids) - 1
            tokens[i, at : at + n], targets[i, at : at + n] = ids[:-1], ids[1:]
            segments[i, at : at + n], documents[i, at : at + n] = segment, n_documents
            positions[i, at : at + n] = np.arange(n)
            at, n_documents = at + n, n_documents + 1
        assert at <= seq_len
    return Batch(tokens, targets, segments >= 0, segments, positions, documents)


def make_split(
    folder: Path,
    documents: Sequence[Sequence[int]],
    n_bytes: Sequence[int] | None = None,
    subsets: Sequence[int] | None = None,
) -> Split:
    """Write documents (BOS and EOS in) to a shard and open them as a split of two subsets."""
    lengths = [len(ids) for ids in documents]
    path = folder / "hand-00000.bin"
    path.write_bytes(b"".join(np.array(ids, "<u2").tobytes() for ids in documents))
    return Split(
        name="hand",
        fingerprint="0" * 64,
        n_documents=len(documents),
        n_tokens=sum(lengths),
        subset_names=("Code", "Prose"),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        n_bytes=np.array(n_bytes if n_bytes is not None else [3 * n for n in lengths], np.int64),
        subset_ids=np.array(subsets if subsets is not None else [0] * len(lengths), np.int64),
        shards=((path, 0, sum(lengths)),),
        dtype=np.dtype("<u2"),
    )


def strip_timing(value: Any) -> Any:
    """Leave out every `timing` key: what is left must be equal between equal runs."""
    if isinstance(value, dict):
        return {key: strip_timing(item) for key, item in value.items() if key != "timing"}
    return [strip_timing(item) for item in value] if isinstance(value, list) else value
