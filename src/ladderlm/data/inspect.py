"""Describe the data that a model is trained on.

Owns the description of a stream, of a batch and of the pieces of a row, as values and as plain
text. Numbers come from the batch itself, not from its plan. Control characters in documents are
spelled out, so that a terminal never obeys them.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.batch import Batch
from ladderlm.data.config import DataConfig, Packing
from ladderlm.data.packing import PackingReport
from ladderlm.data.shards import Split
from ladderlm.data.stream import RowStream
from ladderlm.text import visible
from ladderlm.tokenizer.base import Tokenizer

__all__ = [
    "POLICIES",
    "RowPiece",
    "ShownToken",
    "compare_policies",
    "describe_row",
    "describe_stream",
    "explain_policy",
    "row_pieces",
    "show_tokens",
    "sketch_attention",
    "summarise_batch",
]

POLICIES: tuple[Packing, ...] = ("concat", "best-fit", "padded")
_PACKING_WORDS = {
    "concat": (
        "Documents are laid end to end and cut every {seq_len} tokens. No place is wasted, but "
        "many documents are cut, and a continued piece has lost its beginning."
    ),
    "best-fit": (
        "Only documents longer than {seq_len} tokens are cut. Their last pieces and short "
        "documents share rows, packed by best fit. Few places are wasted, and no document that "
        "fits in a row is cut."
    ),
    "padded": (
        "Every document begins in a row of its own, and the rest of its last row is padding. "
        "This is the simplest policy, but nothing is learned from padding."
    ),
}
_MASK_WORDS = {
    True: (
        "A token attends only to its own document, and positions restart with each document, so "
        "the loss of a document does not depend on its neighbours."
    ),
    False: (
        "A token attends to all earlier tokens of its row, other documents included, and positions "
        "run through the row. This is simple and fast, but the loss of a document depends on its "
        "neighbours."
    ),
}


@dataclass(frozen=True)
class ShownToken:
    """One token in printable form.

    Args:
        text: with control characters spelled out.
        kind: "control" for BOS, EOS and the like, "bytes" for a part of a character.
        note: for bytes, the character that they belong to.
    """

    text: str
    kind: Literal["text", "control", "bytes"] = "text"
    note: str = ""


@dataclass(frozen=True)
class RowPiece:
    """A run of one document in a row, or of padding.

    Args:
        start: place in the row.
        document, subset: None on padding; control characters of the name are not spelled out.
        first_position: position of the first token, as the model gets it.
        text: decoded, with control characters as they are.
    """

    start: int
    n_tokens: int
    document: int | None
    subset: str | None
    first_position: int
    n_targets: int
    text: str
    ids: list[int]


def explain_policy(config: DataConfig) -> str:
    """Return how documents become rows, with the advantages and drawbacks."""
    words = _PACKING_WORDS[config.packing].format(seq_len=config.seq_len)
    return f"{words} {_MASK_WORDS[config.mask_documents]}"


def compare_policies(stream: RowStream) -> dict[Packing, PackingReport]:
    """Count rows and cuts of a stream's documents under each packing policy."""

    def count(policy: Packing) -> PackingReport:
        if policy == stream.config.packing:
            return stream.report()
        config = replace(stream.config, packing=policy)
        return RowStream(stream.split, config, stream.bos_id).report()

    return {policy: count(policy) for policy in POLICIES}


def describe_stream(stream: RowStream) -> str:
    """Return a description of how documents become rows, in three lines."""
    split, config, report = stream.split, stream.config, stream.report()
    mask = "within documents" if config.mask_documents else "across documents"
    share = report.n_cut / max(report.n_documents, 1)
    mixed = "; rows are drawn from subsets by weight" if stream.mixture is not None else ""
    return (
        f"split {split.name}: {split.n_documents:,} documents, {split.n_tokens:,} tokens; "
        f"{stream.rows_per_epoch:,} rows of {config.seq_len} an epoch{mixed}\n"
        f"packing {config.packing}, attention {mask}, order seed {config.order_seed}; "
        f"{report.n_pairs:,} targets in {report.n_places:,} places: {report.waste:.2%} padding\n"
        f"{report.tokens_per_document:,.1f} tokens a document, {report.tokens_per_piece:,.1f} a "
        f"piece, {report.documents_per_row:,.1f} pieces a row; {report.n_cut:,} documents are cut "
        f"({share:.1%}), {report.n_cut_needlessly:,} of them would fit in a row"
    )


def summarise_batch(batch: Batch, split: Split) -> dict[str, Any]:
    """Count rows, tokens, documents, padding and subsets of a batch.

    Returns:
        n_rows, n_places, n_tokens (inputs that are not padding), n_targets, n_documents, n_pieces,
        waste (fraction of places that is padding), masked (fraction of places without a target),
        and subsets by name with n_documents, n_tokens and share of the tokens, largest first.
    """
    real = batch.segment_ids >= 0
    documents, n_tokens = np.unique(batch.document_ids[real], return_counts=True)
    subsets: dict[str, dict[str, Any]] = {}
    for subset in np.unique(split.subset_ids[documents]):
        own = split.subset_ids[documents] == subset
        subsets[split.subset_names[subset]] = {
            "n_documents": int(own.sum()),
            "n_tokens": int(n_tokens[own].sum()),
            "share": float(n_tokens[own].sum() / n_tokens.sum()),
        }
    return {
        "n_rows": batch.n_rows,
        "n_places": int(real.size),
        "n_tokens": int(real.sum()),
        "n_targets": batch.n_targets,
        "n_documents": len(documents),
        "n_pieces": int((batch.segment_ids.max(axis=1, initial=-1) + 1).sum()),
        "waste": float(1 - real.mean()) if real.size else 0.0,
        "masked": float(1 - batch.loss_mask.mean()) if real.size else 0.0,
        "subsets": dict(sorted(subsets.items(), key=lambda item: -item[1]["n_tokens"])),
    }


def row_pieces(batch: Batch, row: int, split: Split, tokenizer: Tokenizer) -> list[RowPiece]:
    """Return each run of one document in a row, padding last."""
    segments, pieces = batch.segment_ids[row], []
    borders = np.flatnonzero(np.diff(segments)) + 1
    for begin, end in zip([0, *borders], [*borders, len(segments)], strict=True):
        document = int(batch.document_ids[row, begin])
        padding = segments[begin] < 0
        ids = [] if padding else batch.tokens[row, begin:end].tolist()
        pieces.append(
            RowPiece(
                start=int(begin),
                n_tokens=int(end - begin),
                document=None if padding else document,
                subset=None if padding else split.subset_names[split.subset_ids[document]],
                first_position=int(batch.positions[row, begin]),
                n_targets=int(batch.loss_mask[row, begin:end].sum()),
                text=tokenizer.decode(ids, continued=ids[0] != tokenizer.bos_id) if ids else "",
                ids=ids,
            )
        )
    return pieces


def show_tokens(ids: list[int], tokenizer: Tokenizer) -> list[ShownToken]:
    """Return neighbouring tokens in printable form.

    A token that holds a part of a character shows its bytes, and the last token of the character
    shows the character too. The note of each token names the character.
    """
    parts = [
        tokenizer.decode_bytes([token], continued=before != tokenizer.bos_id)
        for before, token in zip([None, *ids], ids, strict=False)
    ]
    whole = b"".join(parts)
    spans, at, begin, shown = _character_spans(whole), 0, 0, []
    for token, part in zip(ids, parts, strict=True):
        end, text, broken, kind = begin + len(part), "", "", "text"
        while at < len(spans) and spans[at][0] < end:
            first, last, char = spans[at]
            if char and begin <= first and last <= end:
                text += visible(char)
            else:
                kind = "bytes"
                text += f"‹{whole[max(first, begin) : min(last, end)].hex(' ').upper()}›"
                text += visible(char) if last <= end else ""
                broken += char
            if last > end:
                break  # the next token continues it
            at += 1
        if kind == "bytes":
            note = f"part of {visible(broken, '')}" if broken else "no character"
            shown.append(ShownToken(text.replace("›‹", " "), "bytes", note))
        elif part:
            shown.append(ShownToken(text))
        else:
            name = {tokenizer.bos_id: "BOS", tokenizer.eos_id: "EOS"}.get(token, f"#{token}")
            shown.append(ShownToken(name, "control"))
        begin = end
    return shown


def _character_spans(whole: bytes) -> list[tuple[int, int, str]]:
    """Return (begin, end, character) of UTF-8 bytes, "" for a byte that is part of no character."""
    spans, at = [], 0
    for char in whole.decode("utf-8", "surrogateescape"):
        alone = "\udc80" <= char <= "\udcff"
        end = at + (1 if alone else len(char.encode()))
        spans.append((at, end, "" if alone else char))
        at = end
    return spans


def sketch_attention(
    segments: NDArray[np.int64], mask_documents: bool, width: int = 32
) -> list[str]:
    """Return a drawing of the keys (columns) that each query (rows, downwards) attends to.

    A letter marks the document of a key, a dot a key that is masked because it belongs to another
    document. Padding and later tokens are left blank.
    """
    width = min(width, len(segments))

    def places(n: int) -> list[int]:
        found: list[int] = ((np.arange(n) + 0.5) * len(segments) / n).astype(int).tolist()
        return found

    def cell(q: int, k: int) -> str:
        seen = not mask_documents or segments[k] == segments[q]
        return chr(ord("a") + int(segments[k]) % 26) if seen else "·"

    return [
        "".join(cell(q, k) for k in places(width) if k <= q and segments[q] >= 0)
        for q in places(width // 2)
    ]


def describe_row(
    batch: Batch, row: int, split: Split, tokenizer: Tokenizer, width: int = 400
) -> str:
    """Return the place, document, mask and decoded text of each piece of a row."""
    lines = []
    for piece in row_pieces(batch, row, split, tokenizer):
        end = piece.start + piece.n_tokens
        place = f"  [{piece.start}:{end}]"
        if piece.document is None:
            lines.append(f"{place} padding, no targets")
            continue
        begins = "from its BOS" if piece.ids[0] == tokenizer.bos_id else "continued"
        ends = "to its EOS" if batch.targets[row, end - 1] == tokenizer.eos_id else "cut"
        lines.append(
            f"{place} document {piece.document} ({visible(str(piece.subset), '')}), "
            f"{begins}, {ends}; positions from {piece.first_position}, {piece.n_targets} targets"
        )
        text = piece.text
        shown = text if len(text) <= width else text[: width // 2] + " ... " + text[-width // 2 :]
        lines.append("    input  " + repr(shown))
        targets = batch.targets[row, piece.start : end].tolist()
        for name, ids in (("inputs ", piece.ids[:6]), ("targets", targets[:6])):
            lines.append(f"    {name} {ids} {[t.text for t in show_tokens(ids, tokenizer)]}")
    return "\n".join(lines)
