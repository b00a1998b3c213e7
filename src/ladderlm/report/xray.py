"""The page that shows the input of a model token by token, and the loss of every token.

Owns `render_xray`: one HTML page about a few rows, without scripts or external resources. The
losses are arguments; no model is used here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from ladderlm.eval.proofs import Proof

HEAT_STEPS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # nats; the same on every page
N_WASTE_BARS = 20


@dataclass(frozen=True)
class Xray:
    """The contents of a page.

    Args:
        title: name of the data or of the run.
        stream: the stream that the rows are from.
        batch: all rows of the batch; the first `n_shown` are shown token by token.
        first_row: number of the first row in the stream.
        number: number of the batch.
        losses: (n_shown, T) nats; None: no model.
        model_note: a sentence about the model of the losses.
        proofs: empty if none were requested.
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
    proofs: "Sequence[Proof]" = ()


@dataclass(frozen=True)
class TokenBox:
    """The box of one input token.

    Args:
        kind: text, control or bytes.
        counted: the place has a target that counts.
        level: heat level of its own loss as a target; -1: none.
        hover: text that is shown when the mouse is over the box.
    """

    text: str
    kind: str
    counted: bool
    level: int
    hover: str


@dataclass(frozen=True)
class PieceView:
    """A run of one document in a row, or of padding, which has no tokens.

    Args:
        from_start, to_end: whether the document begins and ends here.
        last_level: heat level of its last target; -1: none.
        loss: mean, nats; None: no model.
    """

    piece: RowPiece
    colour: int = 0
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
    """Return the level, 0 .. 9, of each place on the heat scale; -1 where no target counts."""
    levels = np.searchsorted(HEAT_STEPS, losses, side="right")
    return [int(level) for level in np.where(loss_mask, levels, -1)]


def render_xray(xray: Xray) -> str:
    """Return the page, with all text escaped and control characters visible."""
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
    """Return what the template shows of one row."""
    losses = None if xray.losses is None else xray.losses[row]
    mask, segments = batch.loss_mask[row], batch.segment_ids[row]
    levels = None if losses is None else heat_levels(losses, mask)
    masked = xray.stream.config.mask_documents
    positions = batch.positions[row] if masked else np.arange(len(mask))  # as the model gets them
    pieces = row_pieces(batch, row, xray.stream.split, xray.tokenizer)
    return RowView(
        number=xray.first_row + row,
        pieces=tuple(_view_piece(xray, batch, row, piece, levels) for piece in pieces),
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
    """Return what the template shows of a run of one document or of padding."""
    if piece.document is None:
        return PieceView(piece)
    place = slice(piece.start, piece.start + piece.n_tokens)
    losses = None if xray.losses is None else xray.losses[row, place]
    return PieceView(
        piece,
        colour=int(batch.segment_ids[row, piece.start]) % N_COLOURS,
        from_start=piece.ids[0] == xray.tokenizer.bos_id,
        to_end=bool(batch.targets[row, place.stop - 1] == xray.tokenizer.eos_id),
        tokens=tuple(_box_tokens(xray, batch, row, piece, levels)),
        last_level=-1 if levels is None else levels[place.stop - 1],
        loss=_mean_loss(losses, batch.loss_mask[row, place]),
    )


def _box_tokens(
    xray: Xray, batch: Batch, row: int, piece: RowPiece, levels: list[int] | None
) -> Iterator[TokenBox]:
    """Yield the boxes of a document's run of tokens."""
    tokenizer, masked, ids = xray.tokenizer, xray.stream.config.mask_documents, piece.ids
    targets = batch.targets[row, piece.start : piece.start + piece.n_tokens].tolist()
    shown = show_tokens([*ids, targets[-1]], tokenizer)  # the last target ends the text
    expected = [*ids[1:], targets[-1]]
    for i, token in enumerate(ids):
        at, box = piece.start + i, shown[i]
        counted = bool(batch.loss_mask[row, at])
        right = targets[i] == expected[i]  # a wrong label is shown as it is
        target = shown[i + 1] if right else show_tokens([targets[i]], tokenizer)[0]
        hover = [
            f"place {at}, position {batch.positions[row, at] if masked else at}, segment "
            f"{batch.segment_ids[row, at]}, document {piece.document} "
            f"({visible(str(piece.subset), '')})",
            f"input {token} {_quoted(box)}",
            f"target {targets[i]} {_quoted(target)}" if counted else "no target",
        ]
        if xray.losses is not None and counted:
            hover.append(f"loss of the target {xray.losses[row, at]:.3f} nats")
        text = box.text  # line ends and tabs are shown, and keep their effect
        if box.kind == "text":
            text = text.replace("\t", "⇥\t").replace("\n", "⏎\n")
        level = levels[at - 1] if levels is not None and i else -1  # of the token as a target
        yield TokenBox(text, box.kind, counted, level, "\n".join(hover))


def _quoted(token: ShownToken) -> str:
    if token.kind == "control":
        return f"<{token.text}>"
    return f"«{visible(token.text, '')}»" + (f" ({token.note})" if token.note else "")


def _length_chart(stream: RowStream) -> Markup:
    """Draw the shares of documents and of their tokens, by powers of two of document length."""
    lengths = np.diff(stream.split.offsets) - 1
    powers = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    low, high = int(powers.min()), int(powers.max())
    documents = np.bincount(powers - low, minlength=high - low + 1) / len(lengths)
    tokens = np.bincount(powers - low, weights=lengths) / max(int(lengths.sum()), 1)
    every = -(-(high - low + 1) // 7)  # more labels would overlap
    labels = [
        format_count(2.0**power) if (power - low) % every == 0 else ""
        for power in range(low, high + 2)
    ]
    at = float(np.log2(stream.config.seq_len)) - low
    mark = (at, "row length") if 0 <= at <= high - low + 1 else None
    return histogram_svg(labels, documents, tokens, "tokens of a document", "of documents", mark)


def _waste_chart(stream: RowStream) -> Markup:
    """Draw the shares of rows, by how much of a row is padding."""
    counts = np.sum([plan.fill_counts() for plan in stream.first_plans], axis=0)
    n_padding = stream.config.seq_len - np.arange(len(counts))
    bars = np.minimum(n_padding * N_WASTE_BARS // stream.config.seq_len, N_WASTE_BARS - 1)
    shares = np.bincount(bars, weights=counts, minlength=N_WASTE_BARS) / max(counts.sum(), 1)
    labels = [f"{i * 100 // N_WASTE_BARS}%" if i % 4 == 0 else "" for i in range(N_WASTE_BARS + 1)]
    return histogram_svg(labels, shares, None, "padding in a row", "of rows")
