"""What a search over options found.

Owns its figure: for every option the loss against its values, over all combinations.
"""

import math
from collections.abc import Sequence
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
from ladderlm.study.search import SearchResult, Trial

__all__ = ["search_figure"]


@styled
def search_figure(found: SearchResult) -> Figure:
    """Draw every combination that has ended, once for each option."""
    above = _above_best(found.rows)
    names = list(found.rows[0].options)
    top = max(trial.rung for trial in found.rows)
    n_columns = min(len(names), 2)
    n_rows = math.ceil(len(names) / n_columns)
    figure, axes = new_figure(
        4.5 * n_columns, 3.2 * n_rows + 0.5, n_rows, ncols=n_columns, sharey=True, squeeze=False
    )
    for panel in axes.ravel()[len(names) :]:
        panel.set_axis_off()
    for panel, name in zip(axes.ravel(), names, strict=False):
        _draw_option(panel, found, above, name, top)
    for line in axes:
        line[0].set_ylabel("loss above the best, %")
    lines = [
        "bits per byte above the best of the rung: every point a combination, rung "
        f"{top} filled, lower rungs hollow",
        "line: the best of each value there; star: the best of all; triangle: failed",
    ]
    figure.supxlabel("\n".join(lines), fontsize=8, color=GREY)
    return figure


def _above_best(trials: Sequence[Trial]) -> list[float | None]:
    """Return the loss of each in percent above the best of its rung; None: it failed."""
    best: dict[int, float] = {}
    for trial in trials:
        if trial.bits_per_byte is not None:
            best[trial.rung] = min(trial.bits_per_byte, best.get(trial.rung, math.inf))
    return [
        None if t.bits_per_byte is None else 100 * (t.bits_per_byte / best[t.rung] - 1)
        for t in trials
    ]


def _draw_option(
    axes: Any, found: SearchResult, above: Sequence[float | None], name: str, top: int
) -> None:
    """Draw loss against the values of one option; those that are no numbers side by side."""
    trials = list(zip(found.rows, above, strict=True))
    tried = [trial.options[name] for trial in found.rows]
    values = list({_key(value): value for value in tried}.values())
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    values = sorted(values) if numbers else values
    scaled = numbers and min(values) > 0 and max(values) / min(values) >= 4
    places = dict(zip(map(_key, values), values if numbers else range(len(values)), strict=True))
    if scaled:
        axes.set_xscale("log")
    axes.set_xticks(list(places.values()), [label_of(key, 12) for key in places])
    axes.xaxis.set_minor_locator(NullLocator())
    colour = colour_of(0)  # a search is one of the baseline
    for trial, loss in trials:
        at = places[_key(trial.options[name])]
        if loss is None:
            where = axes.get_xaxis_transform()
            axes.plot([at], [0.96], color=colour, marker="^", transform=where, clip_on=False)
            continue
        face = colour if trial.rung == top else "white"
        axes.scatter([at], [loss], s=28, facecolors=face, edgecolors=colour, marker=marker_of(0))
    lowest: dict[float, float] = {}
    for trial, loss in trials:
        if trial.rung == top and loss is not None:
            at = places[_key(trial.options[name])]
            lowest[at] = min(loss, lowest.get(at, math.inf))
    line = sorted(lowest.items())
    if numbers and line:
        axes.plot(*np.transpose(line), color=colour, linewidth=1.2)
    axes.set_title(label_of(name, 40))
    if found.best is not None:
        best = _key(found.best.options[name])
        at = places[best]
        axes.plot(
            [at],
            [0.0],
            color=colour,
            markeredgecolor="black",
            marker="*",
            markersize=15,
            zorder=4,
        )
        if name in found.edges:
            axes.set_xlabel(
                f"{label_of(best, 12)} is the last of its values: the best may lie beyond"
            )


def _key(value: Any) -> str:
    """Spell a value as the ticks show it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
