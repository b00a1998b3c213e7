"""Show what a model is fed, as text.

Owns the description of a row piece by piece. Numbers come from the batch itself, not from the
plan that made it.
"""

import numpy as np

from ladderlm.data.batch import Batch
from ladderlm.data.shards import Split
from ladderlm.data.stream import RowStream
from ladderlm.tokenizer.base import Tokenizer

__all__ = ["describe_row", "describe_stream", "row_pieces"]


def describe_stream(stream: RowStream) -> str:
    """Say in two lines how documents become rows."""
    split, config = stream.split, stream.config
    n_pairs = split.n_tokens - split.n_documents
    places = stream.rows_per_epoch * config.seq_len
    mask = "within documents" if config.mask_documents else "across documents"
    return (
        f"split {split.name}: {split.n_documents:,} documents, {split.n_tokens:,} tokens; "
        f"{stream.rows_per_epoch:,} rows of {config.seq_len} an epoch\n"
        f"packing {config.packing}, attention {mask}, order seed {config.order_seed}; "
        f"{n_pairs:,} targets in {places:,} places: {1 - n_pairs / places:.2%} padding"
    )


def row_pieces(
    batch: Batch, row: int, split: Split, tokenizer: Tokenizer
) -> list[dict[str, object]]:
    """Give each run of one document in a row, padding last.

    Returns:
        Dicts with start, n_tokens, document, subset, first_position, n_targets, text and ids.
    """
    segments = batch.segment_ids[row]
    pieces: list[dict[str, object]] = []
    borders = np.flatnonzero(np.diff(segments)) + 1
    for begin, end in zip([0, *borders], [*borders, len(segments)], strict=True):
        document = int(batch.document_ids[row, begin])
        padding = segments[begin] < 0
        ids = [] if padding else batch.tokens[row, begin:end].tolist()
        pieces.append(
            {
                "start": int(begin),
                "n_tokens": int(end - begin),
                "document": None if padding else document,
                "subset": None if padding else split.subset_names[split.subset_ids[document]],
                "first_position": int(batch.positions[row, begin]),
                "n_targets": int(batch.loss_mask[row, begin:end].sum()),
                "text": tokenizer.decode(ids) if ids else "",
                "ids": ids,
            }
        )
    return pieces


def describe_row(
    batch: Batch, row: int, split: Split, tokenizer: Tokenizer, width: int = 400
) -> str:
    """Describe one row: each piece's place, document, mask and decoded text."""
    lines = []
    for piece in row_pieces(batch, row, split, tokenizer):
        start, n_tokens = int(str(piece["start"])), int(str(piece["n_tokens"]))
        place = f"  [{start}:{start + n_tokens}]"
        if piece["document"] is None:
            lines.append(f"{place} padding, no targets")
            continue
        ids = batch.tokens[row, start : start + n_tokens].tolist()
        subset = repr(piece["subset"])[1:-1]  # a name from a corpus may hold terminal controls
        begins = "from its BOS" if ids[0] == tokenizer.bos_id else "going on"
        last = int(batch.targets[row, start + n_tokens - 1])
        ends = "to its EOS" if last == tokenizer.eos_id else "cut"
        lines.append(
            f"{place} document {piece['document']} ({subset}), {begins}, {ends}; "
            f"positions from {piece['first_position']}, {piece['n_targets']} targets"
        )
        text = str(piece["text"])
        shown = text if len(text) <= width else text[: width // 2] + " ... " + text[-width // 2 :]
        lines.append("    input  " + repr(shown))
        first = [tokenizer.decode([token]) for token in ids[:6]]
        shifted = batch.targets[row, start : start + 6].tolist()[:n_tokens]
        lines.append(f"    inputs  {ids[:6]} {first}")
        lines.append(f"    targets {shifted} {[tokenizer.decode([token]) for token in shifted]}")
    return "\n".join(lines)
