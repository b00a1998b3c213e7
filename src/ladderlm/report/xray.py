"""The page that shows what a model is fed, and what it makes of it.

Owns `render_xray`: one self-contained HTML page about a few rows, without script and without
anything to load. All numbers come in; nothing is computed by a model here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ladderlm.data.batch import Batch
from ladderlm.data.inspect import (
    RowPiece,
    ShownToken,
    compare_policies,
    explain_policy,
    row_pieces,
    show_tokens,
    summarise_batch,
)
from ladderlm.data.stream import RowStream
from ladderlm.report.figures.xray import N_COLOURS, attention_svg, histogram_svg, strip_svg
from ladderlm.report.pages import page_environment
from ladderlm.text import visible
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.units import format_count

__all__ = ["HEAT_STEPS", "Xray", "heat_levels", "render_xray"]

HEAT_STEPS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # nats; the same on every page
N_WASTE_BARS = 20


class ShownProof(Protocol):
    """A claim about a batch, and what came of it."""

    @property
    def name(self) -> str:
        """A word or two."""

    @property
    def passed(self) -> bool:
        """The claim holds."""

    @property
    def statement(self) -> str:
        """A sentence with the numbers."""


@dataclass(frozen=True)
class Xray:
    """What a page shows.

    Args:
        title: whose rows these are.
        stream: where the rows come from.
        tokenizer: of the data.
        batch: all rows of the batch; the first `n_shown` are shown one by one.
        first_row: number of the first row in the stream.
        number: of the batch.
        n_shown: rows that are shown.
        losses: (n_shown, T) nats; None: no model.
        model_note: which model the losses are of.
        proofs: empty: not asked for.
    """

    title: str
    stream: RowStream
    tokenizer: Tokenizer
    batch: Batch
    first_row: int
    number: int
    n_shown: int
    losses: NDArray[np.float64] | None = None
    model_note: str = ""
    proofs: Sequence[ShownProof] = ()


@dataclass(frozen=True)
class TokenBox:
    """One input token: what stands in its box, and what is told when it is hovered.

    Args:
        kind: text, control or bytes.
        counted: the place has a target that counts.
        level: of its loss as a target itself; -1: none.
    """

    text: str
    kind: str
    counted: bool
    level: int
    hover: str


@dataclass(frozen=True, kw_only=True)
class PieceView:
    """A run of one document in a row, or of padding.

    Args:
        padding: count of its places; 0: a document.
        from_start, to_end: the document begins, ends here.
        last_level: of the loss of its last target; -1: none.
        loss: mean, nats; None: no model.
    """

    start: int
    padding: int = 0
    colour: int = 0
    document: int | None = None
    subset: str | None = None
    n_tokens: int = 0
    from_start: bool = False
    to_end: bool = False
    tokens: tuple[TokenBox, ...] = ()
    last_level: int = -1
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class RowView:
    """One row: its pieces, pictures and raw arrays as text."""

    number: int
    pieces: tuple[PieceView, ...]
    n_targets: int
    n_padding: int
    n_documents: int
    loss: float | None
    attention: Markup
    strip: Markup
    arrays: dict[str, str]


def heat_levels(losses: NDArray[np.float64], loss_mask: NDArray[np.bool_]) -> list[int]:
    """Return the step 0 .. 9 of the heat scale of each place; -1 where nothing counts."""
    levels = np.searchsorted(HEAT_STEPS, losses, side="right")
    return [int(level) for level in np.where(loss_mask, levels, -1)]


def render_xray(xray: Xray) -> str:
    """Return the page; all text is escaped and control characters are visible."""
    stream, shown = xray.stream, xray.batch.rows(0, xray.n_shown)
    summary = summarise_batch(xray.batch, stream.split)
    context = {
        "x": xray,
        "config": stream.config,
        "split": stream.split,
        "why": explain_policy(stream.config),
        "summary": summary,
        "subset_losses": _subset_losses(xray, shown),
        "loss": _mean_loss(xray.losses, shown.loss_mask),
        "policies": compare_policies(stream),
        "rows": [_view_row(xray, shown, row) for row in range(shown.n_rows)],
        "lengths": _length_chart(stream),
        "waste": _waste_chart(stream),
        "heat_steps": HEAT_STEPS,
        "n_colours": N_COLOURS,
        "n_passed": sum(proof.passed for proof in xray.proofs),
    }
    return page_environment().get_template("xray.html.j2").render(context)


def _mean_loss(losses: NDArray[np.float64] | None, counted: NDArray[np.bool_]) -> float | None:
    return None if losses is None or not counted.any() else float(losses[counted].mean())


def _subset_losses(xray: Xray, shown: Batch) -> dict[str, float | None]:
    """Return the mean loss of each subset over the shown rows."""
    split = xray.stream.split
    subset_ids = split.subset_ids[np.maximum(shown.document_ids, 0)]
    return {
        name: _mean_loss(xray.losses, shown.loss_mask & (subset_ids == subset))
        for subset, name in enumerate(split.subset_names)
    }


def _view_row(xray: Xray, batch: Batch, row: int) -> RowView:
    """Describe one row for the template."""
    losses = None if xray.losses is None else xray.losses[row]
    mask, segments = batch.loss_mask[row], batch.segment_ids[row]
    levels = None if losses is None else heat_levels(losses, mask)
    masked = xray.stream.config.mask_documents
    positions = batch.positions[row] if masked else np.arange(len(mask))  # as the model gets them
    pieces = row_pieces(batch, row, xray.stream.split, xray.tokenizer)
    return RowView(
        number=xray.first_row + row,
        pieces=tuple(
            PieceView(start=piece.start, padding=piece.n_tokens)
            if piece.document is None
            else _view_piece(xray, batch, row, piece, levels)
            for piece in pieces
        ),
        n_targets=int(mask.sum()),
        n_padding=int((segments < 0).sum()),
        n_documents=int(segments.max()) + 1,
        loss=_mean_loss(losses, mask),
        attention=attention_svg(segments, masked),
        strip=strip_svg(segments, positions, mask, levels),
        arrays={
            name: " ".join(str(int(value)) for value in array[row])
            for name, array in vars(batch).items()
        },
    )


def _view_piece(
    xray: Xray, batch: Batch, row: int, piece: RowPiece, levels: list[int] | None
) -> PieceView:
    """Describe one document's run of tokens."""
    tokenizer, place = xray.tokenizer, slice(piece.start, piece.start + piece.n_tokens)
    ids, targets = batch.tokens[row, place].tolist(), batch.targets[row, place].tolist()
    losses = None if xray.losses is None else xray.losses[row, place]
    return PieceView(
        start=piece.start,
        colour=int(batch.segment_ids[row, piece.start]) % N_COLOURS,
        document=piece.document,
        subset=piece.subset,
        n_tokens=piece.n_tokens,
        from_start=ids[0] == tokenizer.bos_id,
        to_end=targets[-1] == tokenizer.eos_id,
        tokens=tuple(_box_tokens(xray, batch, row, piece, levels)),
        last_level=-1 if levels is None else levels[place.stop - 1],
        loss=_mean_loss(losses, batch.loss_mask[row, place]),
    )


def _box_tokens(
    xray: Xray, batch: Batch, row: int, piece: RowPiece, levels: list[int] | None
) -> Iterator[TokenBox]:
    """Yield the boxes of a document's run of tokens."""
    tokenizer, place = xray.tokenizer, slice(piece.start, piece.start + piece.n_tokens)
    masked = xray.stream.config.mask_documents
    ids, targets = batch.tokens[row, place].tolist(), batch.targets[row, place].tolist()
    shown = show_tokens([*ids, targets[-1]], tokenizer)  # the last target ends the text
    expected = [*ids[1:], targets[-1]]
    for i, token in enumerate(ids):
        at = piece.start + i
        counted = bool(batch.loss_mask[row, at])
        target = shown[i + 1]
        if targets[i] != expected[i]:  # labels are wrong: show what they are
            target = show_tokens([targets[i]], tokenizer)[0]
        hover = [
            f"place {at}, position {batch.positions[row, at] if masked else at}, segment "
            f"{batch.segment_ids[row, at]}, document {piece.document} "
            f"({visible(str(piece.subset), '')})",
            f"input {token} {_quoted(shown[i])}",
            f"target {targets[i]} {_quoted(target)}" if counted else "no target",
        ]
        if xray.losses is not None and counted:
            hover.append(f"loss of the target {xray.losses[row, at]:.3f} nats")
        yield TokenBox(
            text=_lines(shown[i].text) if shown[i].kind == "text" else shown[i].text,
            kind=shown[i].kind,
            counted=counted,
            level=levels[at - 1] if levels is not None and i else -1,  # as a target itself
            hover="\n".join(hover),
        )


def _quoted(token: ShownToken) -> str:
    if token.kind == "control":
        return f"<{token.text}>"
    return f"«{visible(token.text, '')}»" + (f" ({token.note})" if token.note else "")


def _lines(text: str) -> str:
    """Show ends of lines and tabs, and keep what they do."""
    return text.replace("\t", "⇥\t").replace("\n", "⏎\n")


def _length_chart(stream: RowStream) -> Markup:
    """Draw documents, and the tokens they hold, by powers of two of their length."""
    lengths = np.diff(stream.split.offsets) - 1
    powers = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    low, high = int(powers.min()), int(powers.max())
    documents = np.bincount(powers - low, minlength=high - low + 1) / len(lengths)
    tokens = np.bincount(powers - low, weights=lengths) / max(int(lengths.sum()), 1)
    every = -(-(high - low + 1) // 7)  # more labels would touch
    labels = [
        format_count(2.0**power) if (power - low) % every == 0 else ""
        for power in range(low, high + 2)
    ]
    at = float(np.log2(stream.config.seq_len)) - low
    mark = (at, "a row") if 0 <= at <= high - low + 1 else None
    return histogram_svg(labels, documents, tokens, "tokens of a document", "of documents", mark)


def _waste_chart(stream: RowStream) -> Markup:
    """Draw rows by the share of them that is padding."""
    counts = np.sum([plan.fill_counts() for plan in stream.first_plans], axis=0)
    n_padding = stream.config.seq_len - np.arange(len(counts))
    bars = np.minimum(n_padding * N_WASTE_BARS // stream.config.seq_len, N_WASTE_BARS - 1)
    shares = np.bincount(bars, weights=counts, minlength=N_WASTE_BARS) / max(counts.sum(), 1)
    labels = [f"{i * 100 // N_WASTE_BARS}%" if i % 4 == 0 else "" for i in range(N_WASTE_BARS + 1)]
    return histogram_svg(labels, shares, None, "padding in a row", "of rows")
