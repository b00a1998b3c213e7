"""Loss over training.

Owns the figure of the training and validation loss of one run.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.figure import Figure

from ladderlm.report.figures.style import GREY, colour_of, new_figure, styled, write_across
from ladderlm.report.run_facts import LoggedLoss
from ladderlm.units import format_count

__all__ = ["loss_curves"]


@styled
def loss_curves(
    train: Sequence[LoggedLoss], validation: Sequence[LoggedLoss], trivial: Mapping[str, float]
) -> Figure:
    """Draw the training and validation loss of a run, in nats per token and bits per byte.

    Args:
        train: losses of batches.
        validation: losses and bits per byte of the validation head.
        trivial: bits per byte of models without training, drawn as lines where they fit.
    """
    figure, (left, right) = new_figure(9.0, 3.6, 1, ncols=2)
    shown = _points_of(train, "loss")
    left.plot(*shown, color=colour_of(5), linewidth=1.0, label="train, each logged batch")
    head: dict[str, Any] = {"color": colour_of(0), "marker": "o", "markersize": 3}
    left.plot(*_points_of(validation, "loss"), **head, label="validation head")
    bits = _points_of(validation, "bits_per_byte")
    right.plot(*bits, **head, label="validation head")
    for name in ("order-2 byte model", "gzip -9, whole", "xz -9e, whole"):
        value = trivial.get(name, math.inf)
        if value <= max(bits[1], default=math.nan):
            right.axhline(value, color=GREY, linewidth=0.8, linestyle="--")
            place = {"transform": right.get_yaxis_transform(), "ha": "right", "va": "bottom"}
            right.text(1.0, value, name, fontsize=8, color=GREY, **place)
    for axes, title, unit in (
        (left, "Loss", "nats per token"),
        (right, "Bits per byte", "bits per byte"),
    ):
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_xlabel("training tokens")
        axes.xaxis.set_major_formatter(lambda x, _: format_count(x))
        axes.legend(fontsize=8)
        if not len(axes.lines[0].get_xdata()):
            write_across(axes, "not enough points")
    return figure


def _points_of(
    rows: Sequence[LoggedLoss], key: Literal["loss", "bits_per_byte"]
) -> tuple[list[float], list[float]]:
    """Return the tokens and the values of the rows that can be drawn."""
    pairs = [(row.n_tokens, getattr(row, key)) for row in rows]
    kept = [
        (x, y)
        for x, y in pairs
        if isinstance(x, int | float) and isinstance(y, int | float)
        if 0 <= x < 1e18 and abs(y) < 1e6
    ]
    return [x for x, _ in kept], [y for _, y in kept]
