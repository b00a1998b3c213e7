"""Describe what a model is fed.

Owns the description of a stream, of a batch and of a row piece by piece, as values and as plain
text. Numbers come from the batch itself, not from the plan that made it. Whatever stands in a
document is shown, never obeyed: control characters are spelt out.
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
        "Documents are laid end to end and cut every {seq_len} tokens: no place is wasted, but "
        "many documents are cut, and a continued piece has lost its beginning."
    ),
    "best-fit": (
        "Only documents longer than {seq_len} tokens are cut; their last pieces and short "
        "documents share rows, packed by best fit: hardly a place is wasted, and no document is "
        "cut that would fit in a row."
    ),
    "padded": (
        "Every document begins in a row of its own, and what it does not fill is padding: the "
        "plain reference, paid for with places that teach nothing."
    ),
}
_MASK_WORDS = {
    True: (
        "A token attends only within its own document and positions restart with each, so the loss "
        "of a document does not depend on its neighbours."
    ),
    False: (
        "A token attends to all earlier ones of its row, other documents included, and positions "
        "run through: simple and fast, but the loss of a document depends on its neighbours."
    ),
}


@dataclass(frozen=True)
class ShownToken:
    """One token as it can be shown.

    Args:
        text: what to show, with control characters spelt out.
        kind: text; control: BOS, EOS and the like; bytes: holds a part of a character.
        note: of bytes: what they belong to.
    """

    text: str
    kind: Literal["text", "control", "bytes"] = "text"
    note: str = ""


@dataclass(frozen=True)
class RowPiece:
    """A run of one document in a row, or of padding.

    Args:
        start: place in the row.
        document, subset: None on padding; the subset's name is not made harmless.
        first_position: as the model gets it.
        text: decoded, as it is.
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
    """Return how documents become rows, and what is gained and lost by it."""
    words = _PACKING_WORDS[config.packing].format(seq_len=config.seq_len)
    return f"{words} {_MASK_WORDS[config.mask_documents]}"


def compare_policies(stream: RowStream) -> dict[Packing, PackingReport]:
    """Count what each packing policy would make of the documents of a stream."""
    reports = {}
    for policy in POLICIES:
        other = stream
        if policy != stream.config.packing:
            other = RowStream(stream.split, replace(stream.config, packing=policy), stream.bos_id)
        reports[policy] = other.report()
    return reports


def describe_stream(stream: RowStream) -> str:
    """Return three lines on how documents become rows."""
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
        waste (share of places that is padding), masked (share of places without a target), and
        subsets by name with n_documents, n_tokens and share of the tokens, largest first.
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
    n_pieces = (batch.segment_ids.max(axis=1, initial=-1) + 1).sum()
    return {
        "n_rows": batch.n_rows,
        "n_places": int(real.size),
        "n_tokens": int(real.sum()),
        "n_targets": batch.n_targets,
        "n_documents": len(documents),
        "n_pieces": int(n_pieces),
        "waste": float(1 - real.mean()) if real.size else 0.0,
        "masked": float(1 - batch.loss_mask.mean()) if real.size else 0.0,
        "subsets": dict(sorted(subsets.items(), key=lambda item: -item[1]["n_tokens"])),
    }


def row_pieces(batch: Batch, row: int, split: Split, tokenizer: Tokenizer) -> list[RowPiece]:
    """Return each run of one document in a row, padding last."""
    segments = batch.segment_ids[row]
    pieces = []
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
    """Make neighbouring tokens legible one by one.

    A token that holds only a part of a character shows its bytes, and the last of such tokens the
    character as well; the note of each names the character that they make together.
    """
    first = tokenizer.bos_id  # what comes after it begins a text
    parts = [
        tokenizer.decode_bytes([token], continued=before != first)
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
    """List (begin, end, character) of UTF-8 bytes; a byte that is in none has an empty one."""
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
    """Draw which keys (columns) each query (rows, downwards) sees, in `width` columns.

    A letter stands for the document of the key; a dot is a key that is hidden because it belongs
    to another document; nothing is drawn on padding or in the future.
    """
    width = min(width, len(segments))
    lines = []
    for q in ((np.arange(width // 2) + 0.5) * len(segments) / (width // 2)).astype(int):
        line = ""
        for k in ((np.arange(width) + 0.5) * len(segments) / width).astype(int):
            if k > q or segments[q] < 0:
                break
            seen = not mask_documents or segments[k] == segments[q]
            line += chr(ord("a") + int(segments[k]) % 26) if seen else "·"
        lines.append(line)
    return lines


def describe_row(
    batch: Batch, row: int, split: Split, tokenizer: Tokenizer, width: int = 400
) -> str:
    """Describe one row: each piece's place, document, mask and decoded text."""
    lines = []
    for piece in row_pieces(batch, row, split, tokenizer):
        start, n_tokens = piece.start, piece.n_tokens
        place = f"  [{start}:{start + n_tokens}]"
        if piece.document is None:
            lines.append(f"{place} padding, no targets")
            continue
        ids = batch.tokens[row, start : start + n_tokens].tolist()
        begins = "from its BOS" if ids[0] == tokenizer.bos_id else "continued"
        last = int(batch.targets[row, start + n_tokens - 1])
        ends = "to its EOS" if last == tokenizer.eos_id else "cut"
        lines.append(
            f"{place} document {piece.document} ({visible(str(piece.subset), '')}), "
            f"{begins}, {ends}; "
            f"positions from {piece.first_position}, {piece.n_targets} targets"
        )
        text = piece.text
        shown = text if len(text) <= width else text[: width // 2] + " ... " + text[-width // 2 :]
        lines.append("    input  " + repr(shown))
        first = [token.text for token in show_tokens(ids[:6], tokenizer)]
        shifted = batch.targets[row, start : start + 6].tolist()[:n_tokens]
        lines.append(f"    inputs  {ids[:6]} {first}")
        then = [token.text for token in show_tokens(shifted, tokenizer)]
        lines.append(f"    targets {shifted} {then}")
    return "\n".join(lines)
