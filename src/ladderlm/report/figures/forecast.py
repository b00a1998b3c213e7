"""What was predicted, and what came.

Owns the figure of a study's forecast: the interval of every arm on every held-out rung, written
before it was looked at, and the mean that was measured.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ladderlm.report.figures.style import (
    GREY,
    colour_of,
    label_of,
    marker_of,
    new_figure,
    styled,
)
from ladderlm.study.forecast import ForecastScore
from ladderlm.study.ladder import name_rung

__all__ = ["forecast_figure"]


@styled
def forecast_figure(scores: Sequence[ForecastScore], arms: Sequence[str], note: str = "") -> Figure:
    """Draw forecasts as errors in percent of the measured loss.

    Args:
        arms: names, the baseline first.
        note: a line under the figure, such as when the forecast was written.
    """
    figure, axes = new_figure(7.0, 1.6 + 0.42 * max(len(scores), 1))
    axes.axvline(0.0, color=GREY, linewidth=1.0)
    axes.axvspan(-0.5, 0.5, color=GREY, alpha=0.12, linewidth=0)
    for place, score in enumerate(scores):
        index = arms.index(score.arm)
        colour, actual = colour_of(index), score.actual
        for interval, width in ((score.interval_95, 1.4), (score.interval_90, 4.0)):
            ends = [100 * (end / actual - 1) for end in interval]
            axes.plot(ends, [place, place], color=colour, linewidth=width, solid_capstyle="butt")
        axes.plot(
            [100 * score.relative_error],
            [place],
            color="white",
            markeredgecolor=colour,
            marker=marker_of(index),
            markersize=7,
            zorder=3,
        )
    axes.set_yticks(
        range(len(scores)),
        [f"{label_of(s.arm, 30)}, rung {name_rung(s.rung, s.branch)}" for s in scores],
    )
    axes.set_ylim(-0.7, max(len(scores), 1) - 0.3)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_title("Forecast of the held-out rungs against what was measured")
    axes.set_xlabel(
        "predicted / measured - 1, in percent: thick 90 %, thin 95 %; grey within 0.5 %"
        + (f"\n{label_of(note, 120)}" if note else "")
    )
    if not scores:
        axes.text(0.5, 0.5, "nothing to compare yet", transform=axes.transAxes, ha="center")
    return figure
