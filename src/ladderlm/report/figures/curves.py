"""Loss over training.

Owns the figure of one run's training and validation loss.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.figure import Figure

from ladderlm.report.figures.style import GREY, colour_of, new_figure, styled
from ladderlm.report.run_facts import LoggedLoss

__all__ = ["loss_curves"]


@styled
def loss_curves(
    train: Sequence[LoggedLoss], validation: Sequence[LoggedLoss], trivial: Mapping[str, float]
) -> Figure:
    """Draw a run's training loss (nats per token) and its validation (bits per byte).

    Args:
        train: losses of batches.
        validation: losses and bits per byte of the validation head.
        trivial: bits per byte of models without training, drawn as lines where they fit.
    """
    figure, (left, right) = new_figure(9.0, 3.6, 1, ncols=2)
    shown = _points_of(train, "loss")
    left.plot(*shown, color=colour_of(5), linewidth=1.0, label="train, each logged batch")
    left.plot(
        *_points_of(validation, "loss"),
        color=colour_of(0),
        marker="o",
        markersize=3,
        label="validation head",
    )
    left.set_title("Loss")
    left.set_ylabel("nats per token")
    bits = _points_of(validation, "bits_per_byte")
    right.plot(*bits, color=colour_of(0), marker="o", markersize=3, label="validation head")
    top = max(bits[1], default=math.nan)
    for name in ("order-2 byte model", "gzip -9, whole", "xz -9e, whole"):
        value = trivial.get(name, math.inf)
        if value <= top:
            right.axhline(value, color=GREY, linewidth=0.8, linestyle="--")
            right.annotate(
                name,
                (1.0, value),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
                color=GREY,
            )
    right.set_title("Bits per byte")
    right.set_ylabel("bits per byte")
    for axes in (left, right):
        axes.set_xlabel("training tokens")
        axes.xaxis.set_major_formatter(lambda x, _: _tick_of_tokens(x))
        axes.legend(fontsize=8)
        if not axes.lines or not len(axes.lines[0].get_xdata()):
            axes.text(0.5, 0.5, "not enough points", transform=axes.transAxes, ha="center")
    return figure


def _points_of(
    rows: Sequence[LoggedLoss], key: Literal["loss", "bits_per_byte"]
) -> tuple[list[float], list[float]]:
    """Return the tokens and the values of the rows that can be drawn."""
    pairs = [(row.n_tokens, getattr(row, key)) for row in rows]
    kept = [
        (float(x), float(y))
        for x, y in pairs
        if isinstance(x, int | float) and isinstance(y, int | float) and 0 <= x < 1e18
        if abs(y) < 1e6
    ]
    return [x for x, _ in kept], [y for _, y in kept]


def _tick_of_tokens(value: float) -> str:
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"
