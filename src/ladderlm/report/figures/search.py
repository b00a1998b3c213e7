"""The result of a search over options.

Owns its figure: for every option, the loss of all combinations against the option's values.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ladderlm.report.figures import style
from ladderlm.study.search import SearchResult, Trial

__all__ = ["search_figure"]


@style.styled
def search_figure(found: SearchResult) -> Figure:
    """Draw every combination that has ended, once for each option."""
    names = list(found.rows[0].options)
    top = max(trial.rung for trial in found.rows)
    n_columns = min(len(names), 2)
    n_rows = math.ceil(len(names) / n_columns)
    shape: dict[str, Any] = {"ncols": n_columns, "sharey": True, "squeeze": False}
    figure, axes = style.new_figure(4.5 * n_columns, 3.2 * n_rows + 0.5, n_rows, **shape)
    for panel in axes.ravel()[len(names) :]:
        panel.set_axis_off()
    trials = list(zip(found.rows, _above_best(found.rows), strict=True))
    for panel, name in zip(axes.ravel(), names, strict=False):
        _draw_option(panel, found, trials, name, top)
    for line in axes:
        line[0].set_ylabel("loss above the best, %")
    lines = [
        "bits per byte above the best of the rung: each point is a combination; "
        f"rung {top} filled, lower rungs hollow",
        "line: best of each value on that rung; star: best of all; triangle: failed",
    ]
    style.note_below(figure, lines)
    return figure


def _above_best(trials: Sequence[Trial]) -> list[float | None]:
    """Return each loss in percent above the best of its rung; None for a trial that failed."""
    best: dict[int, float] = {}
    for trial in trials:
        if trial.bits_per_byte is not None:
            best[trial.rung] = min(trial.bits_per_byte, best.get(trial.rung, math.inf))
    return [
        None if t.bits_per_byte is None else 100 * (t.bits_per_byte / best[t.rung] - 1)
        for t in trials
    ]


def _draw_option(
    axes: Any,
    found: SearchResult,
    trials: Sequence[tuple[Trial, float | None]],
    name: str,
    top: int,
) -> None:
    """Draw loss against the values of one option; values other than numbers are evenly spaced."""
    tried = [trial.options[name] for trial, _ in trials]
    values = list({_key(value): value for value in tried}.values())
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    values = sorted(values) if numbers else values
    if numbers and min(values) > 0 and max(values) / min(values) >= 4:
        axes.set_xscale("log")
    places = dict(zip(map(_key, values), values if numbers else range(len(values)), strict=True))
    axes.set_xticks(list(places.values()), [style.label_of(key, 12) for key in places])
    axes.xaxis.set_minor_locator(NullLocator())
    colour, at_top = style.colour_of(0), axes.get_xaxis_transform()  # a search is of the baseline
    lowest: dict[float, float] = {}
    for trial, loss in trials:
        at = places[_key(trial.options[name])]
        if loss is None:
            axes.plot([at], [0.96], color=colour, marker="^", transform=at_top, clip_on=False)
            continue
        face, marker = colour if trial.rung == top else "white", style.marker_of(0)
        axes.scatter([at], [loss], s=28, facecolors=face, edgecolors=colour, marker=marker)
        if trial.rung == top:
            lowest[at] = min(loss, lowest.get(at, math.inf))
    if numbers and lowest:
        axes.plot(*np.transpose(sorted(lowest.items())), color=colour, linewidth=1.2)
    axes.set_title(style.label_of(name, 40))
    if found.best is not None:
        best = _key(found.best.options[name])
        style.mark_optimum(axes, places[best], 0.0, colour, size=15)
        if name in found.edges:
            axes.set_xlabel(
                f"{style.label_of(best, 12)} is the last of its values: the best may be beyond it"
            )


def _key(value: Any) -> str:
    """Return a value as its tick shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
