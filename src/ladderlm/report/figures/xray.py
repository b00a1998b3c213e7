"""Small pictures of rows and packing, as inline SVG that takes its colours from the page.

Owns shapes only: every colour is a class of the page's style sheet, which has a light, a dark and a
print version. The pictures hold numbers only, no text of a document.
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

__all__ = ["N_COLOURS", "attention_svg", "histogram_svg", "strip_svg"]

N_COLOURS = 6  # documents take them in turn; neighbours differ
WIDTH, HEIGHT, LEFT, BOTTOM = 460, 190, 44, 40


def attention_svg(segments: NDArray[np.int64], mask_documents: bool) -> Markup:
    """Draw which keys (to the right) each query (downwards) of one row attends to.

    A triangle is a document that attends to itself. The area outside of the triangles is hidden by
    the document mask; without a mask, it shows the attention between documents.

    Args:
        segments: (T,), -1 is padding.
    """
    n_places, n_real, own = len(segments), int((segments >= 0).sum()), _segments_of(segments)
    shapes = [f'<rect class="frame" x="0" y="0" width="{n_places}" height="{n_places}"/>']
    if n_real < n_places:
        rest = n_places - n_real
        shapes += [
            f'<rect class="pad" x="0" y="{n_real}" width="{n_places}" height="{rest}"/>',
            f'<rect class="pad" x="{n_real}" y="0" width="{rest}" height="{n_real}"/>',
        ]
    kind = "hidden" if mask_documents else "leak"
    shapes.append(f'<path class="{kind}" d="M0 0V{n_real}H{n_real}Z"/>')
    for segment, begin, end in own:
        shapes.append(f'<path class="f{segment % N_COLOURS}" d="M{begin} {begin}V{end}H{end}Z"/>')
    n_own = sum((end - begin) * (end - begin + 1) // 2 for _, begin, end in own)
    n_causal = n_real * (n_real + 1) // 2
    seen = n_own if mask_documents else n_causal
    text = f"{seen:,} of {n_causal:,} causal pairs are attended to, {n_own:,} within documents"
    return Markup(
        f'<svg class="attention" viewBox="0 0 {n_places} {n_places}" role="img" '
        f'aria-label="{text}"><title>{text}</title>{"".join(shapes)}</svg>'
    )


def _segments_of(segments: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """List (segment, begin, end) of the documents of a row."""
    borders = np.flatnonzero(np.diff(segments)) + 1
    pairs = zip([0, *borders.tolist()], [*borders.tolist(), len(segments)], strict=True)
    return [(int(segments[b]), b, e) for b, e in pairs if segments[b] >= 0]


def strip_svg(
    segments: NDArray[np.int64],
    positions: NDArray[np.int64],
    loss_mask: NDArray[np.bool_],
    levels: Sequence[int] | None,
) -> Markup:
    """Draw one row as lanes: documents, positions as ramps, loss mask, and loss levels if known.

    Args:
        segments, positions, loss_mask: (T,).
        levels: step of the heat scale of each place, -1 where nothing counts; None: no lane.
    """
    n_places, highest = len(segments), max(int(positions.max()), 1)
    shapes = []
    for segment, begin, end in _segments_of(segments):
        colour, width = segment % N_COLOURS, end - begin
        first, last = (12 * (1 - positions[at] / highest) for at in (begin, end - 1))
        shapes += [
            f'<rect class="f{colour}" x="{begin}" y="0" width="{width}" height="8"/>',
            f'<path class="f{colour}" d="M{begin} 22V{first + 10:.2f}L{end} {last + 10:.2f}V22Z"/>',
        ]
    shapes += [
        f'<rect class="counts" x="{begin}" y="24" width="{end - begin}" height="5"/>'
        for _, begin, end in _segments_of(np.where(loss_mask, 0, -1))
    ]
    height = 29 if levels is None else 41
    shapes += [
        f'<rect class="k{level}" x="{begin}" y="31" width="{end - begin}" height="10"/>'
        for level, begin, end in ([] if levels is None else _segments_of(np.asarray(levels)))
    ]
    return Markup(
        f'<svg class="strip" viewBox="0 0 {n_places} {height}" preserveAspectRatio="none" '
        f'role="img" aria-label="documents, positions and loss mask">{"".join(shapes)}</svg>'
    )


def histogram_svg(
    labels: Sequence[str],
    shares: NDArray[np.float64],
    outline: NDArray[np.float64] | None,
    x_name: str,
    y_name: str,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Draw shares as bars, with a second set as outlines.

    Args:
        labels: of the borders between bars, one more than bars; "" for no label.
        shares, outline: of each bar, in 0 .. 1.
        mark: position in bars and name of a vertical line.
    """
    tops = [] if outline is None else outline.tolist()
    highest = max(1e-9, *shares.tolist(), *tops)
    wide, high, base = WIDTH - LEFT - 18, HEIGHT - BOTTOM - 16, HEIGHT - BOTTOM
    step = wide / max(len(shares), 1)
    shapes = []
    for part in (0.5, 1.0):
        y = base - part * high
        shapes += [
            f'<path class="grid" d="M{LEFT} {y:.1f}H{LEFT + wide}"/>',
            f'<text class="end" x="{LEFT - 5}" y="{y + 4:.1f}">{part * highest:.0%}</text>',
        ]
    for i, share in enumerate(shares.tolist()):
        tall = max(share / highest * high, 1.0) if share else 0.0  # a small share stays visible
        shapes.append(
            f'<rect class="bar" x="{LEFT + i * step + 0.5:.1f}" y="{base - tall:.1f}" '
            f'width="{max(step - 1, 0.5):.1f}" height="{tall:.1f}">'
            f"<title>{share:.3%} {y_name}</title></rect>"
        )
    for i, share in enumerate(tops):
        tall = share / highest * high
        shapes.append(
            f'<path class="outline" d="M{LEFT + i * step + 0.5:.1f} {base}v{-tall:.1f}'
            f'h{max(step - 1, 0.5):.1f}v{tall:.1f}"/>'
        )
    shapes.append(f'<path class="axis" d="M{LEFT} {base}H{LEFT + wide}"/>')
    shapes += [
        f'<text class="middle" x="{LEFT + i * step:.1f}" y="{base + 14}">{label}</text>'
        for i, label in enumerate(labels)
        if label
    ]
    if mark is not None:
        x = LEFT + mark[0] * step
        side = ("end", -4) if mark[0] > len(shares) / 2 else ("start", 4)
        shapes += [
            f'<path class="mark" d="M{x:.1f} 6V{base}"/>',
            f'<text class="{side[0]} marked" x="{x + side[1]:.1f}" y="14">{mark[1]}</text>',
        ]
    shapes.append(f'<text class="middle" x="{LEFT + wide / 2}" y="{HEIGHT - 6}">{x_name}</text>')
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="histogram: {x_name}">{"".join(shapes)}</svg>'
    )
