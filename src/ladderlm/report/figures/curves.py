"""Loss over training.

Owns the figure of one run's training and validation loss.
"""

import math
from typing import Any

from matplotlib.figure import Figure

from ladderlm.report.figures.style import GREY, colour_of, new_figure, styled

__all__ = ["loss_curves"]


@styled
def loss_curves(
    train: list[dict[str, Any]], validation: list[dict[str, Any]], trivial: dict[str, float]
) -> Figure:
    """Draw a run's training loss (nats per token) and its validation (bits per byte).

    Args:
        train: rows with n_tokens and loss.
        validation: rows with n_tokens, loss and bits_per_byte.
        trivial: bits per byte of models without training, drawn as lines where they fit.
    """
    figure, (left, right) = new_figure(9.0, 3.6, 1, ncols=2)
    shown = _finite(train, "loss")
    left.plot(*shown, color=colour_of(5), linewidth=1.0, label="train, each logged batch")
    left.plot(
        *_finite(validation, "loss"),
        color=colour_of(0),
        marker="o",
        markersize=3,
        label="validation head",
    )
    left.set_title("Loss")
    left.set_ylabel("nats per token")
    bits = _finite(validation, "bits_per_byte")
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
        axes.xaxis.set_major_formatter(lambda x, _: _short(x))
        axes.legend(fontsize=8)
        if not axes.lines or not len(axes.lines[0].get_xdata()):
            axes.text(0.5, 0.5, "not enough points", transform=axes.transAxes, ha="center")
    return figure


def _finite(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Give the rows that can be drawn; JSON has null where a number was not finite."""
    kept = [
        (float(row["n_tokens"]), float(row[key]))
        for row in rows
        if all(isinstance(row.get(k), int | float) for k in ("n_tokens", key))
        and 0 <= row["n_tokens"] < 1e18
        and abs(row[key]) < 1e6
    ]
    return [x for x, _ in kept], [y for _, y in kept]


def _short(value: float) -> str:
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"
