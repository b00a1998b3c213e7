"""What a search over options found.

Owns its figure: for every option the loss against its values, over all combinations.
"""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ladderlm.report.figures.style import (
    GREY,
    colour_of,
    label_of,
    marker_of,
    new_figure,
    styled,
)

__all__ = ["search_figure"]


@styled
def search_figure(found: dict[str, Any]) -> Figure:
    """Draw every combination that has ended, once for each option.

    Args:
        found: "search" of `fits.json`: rows with rung, options and bits per byte (null: failed),
            the best row, and the options whose best value is the end of its list.
    """
    rows, best = _above_best(found["rows"]), found["best"]
    names = list(rows[0]["options"])
    top = max(row["rung"] for row in rows)
    n_columns = min(len(names), 2)
    n_rows = math.ceil(len(names) / n_columns)
    figure, axes = new_figure(
        4.5 * n_columns, 3.2 * n_rows + 0.5, n_rows, ncols=n_columns, sharey=True, squeeze=False
    )
    for panel in axes.ravel()[len(names) :]:
        panel.set_axis_off()
    for panel, name in zip(axes.ravel(), names, strict=False):
        _draw_option(panel, rows, best, name, top, name in found["edges"])
    for line in axes:
        line[0].set_ylabel("loss above the best, %")
    lines = [
        "bits per byte above the best of the rung: every point a combination, rung "
        f"{top} filled, lower rungs hollow",
        "line: the best of each value there; star: the best of all; triangle: failed",
    ]
    figure.supxlabel("\n".join(lines), fontsize=8, color=GREY)
    return figure


def _above_best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the rows with their loss in percent above the best of their rung (null: failed)."""
    best: dict[int, float] = {}
    for row in rows:
        if row["bits_per_byte"] is not None:
            best[row["rung"]] = min(row["bits_per_byte"], best.get(row["rung"], math.inf))
    return [
        row
        | {
            "above": None
            if row["bits_per_byte"] is None
            else 100 * (row["bits_per_byte"] / best[row["rung"]] - 1)
        }
        for row in rows
    ]


def _draw_option(
    axes: Any,
    rows: list[dict[str, Any]],
    best: dict[str, Any] | None,
    name: str,
    top: int,
    edge: bool,
) -> None:
    """Draw loss against the values of one option; those that are no numbers side by side."""
    values = list({_key(row["options"][name]): row["options"][name] for row in rows}.values())
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    values = sorted(values) if numbers else values
    scaled = numbers and min(values) > 0 and max(values) / min(values) >= 4
    places = dict(zip(map(_key, values), values if numbers else range(len(values)), strict=True))
    if scaled:
        axes.set_xscale("log")
    axes.set_xticks(list(places.values()), [label_of(key, 12) for key in places])
    axes.xaxis.set_minor_locator(NullLocator())
    colour = colour_of(0)  # a search is one of the baseline
    for row in rows:
        at, loss = places[_key(row["options"][name])], row["above"]
        if loss is None:
            where = axes.get_xaxis_transform()
            axes.plot([at], [0.96], color=colour, marker="^", transform=where, clip_on=False)
            continue
        face = colour if row["rung"] == top else "white"
        axes.scatter([at], [loss], s=28, facecolors=face, edgecolors=colour, marker=marker_of(0))
    lowest: dict[float, float] = {}
    for row in rows:
        if row["rung"] == top and row["above"] is not None:
            at = places[_key(row["options"][name])]
            lowest[at] = min(row["above"], lowest.get(at, math.inf))
    line = sorted(lowest.items())
    if numbers and line:
        axes.plot(*np.transpose(line), color=colour, linewidth=1.2)
    axes.set_title(label_of(name, 40))
    if best is not None:
        at = places[_key(best["options"][name])]
        axes.plot(
            [at],
            [0.0],
            color=colour,
            markeredgecolor="black",
            marker="*",
            markersize=15,
            zorder=4,
        )
        if edge:
            axes.set_xlabel(
                f"{label_of(_key(best['options'][name]), 12)} is the last of its values: "
                "the best may lie beyond"
            )


def _key(value: Any) -> str:
    """Spell a value as the ticks show it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
