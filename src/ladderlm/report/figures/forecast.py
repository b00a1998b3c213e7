"""Predicted and measured losses.

Owns the figure of a study's forecast: for every arm on every held-out rung, the interval that was
written before the rung was read, and the mean that was measured.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ladderlm.report.figures import style
from ladderlm.study.forecast import ForecastScore
from ladderlm.study.ladder import name_rung

__all__ = ["forecast_figure"]


@style.styled
def forecast_figure(scores: Sequence[ForecastScore], arms: Sequence[str], note: str = "") -> Figure:
    """Draw forecasts as errors in percent of the measured loss.

    Args:
        arms: names, the baseline first.
        note: a line under the figure, such as when the forecast was written.
    """
    figure, axes = style.new_figure(7.0, 1.6 + 0.42 * max(len(scores), 1))
    axes.axvline(0.0, color=style.GREY, linewidth=1.0)
    axes.axvspan(-0.5, 0.5, color=style.GREY, alpha=0.12, linewidth=0)
    for place, score in enumerate(scores):
        index = arms.index(score.arm)
        colour = style.colour_of(index)
        for interval, width in ((score.interval_95, 1.4), (score.interval_90, 4.0)):
            ends = [100 * (end / score.actual - 1) for end in interval]
            axes.plot(ends, [place, place], color=colour, linewidth=width, solid_capstyle="butt")
        point = {"marker": style.marker_of(index), "markersize": 7, "zorder": 3}
        error = [100 * score.relative_error]
        axes.plot(error, [place], color="white", markeredgecolor=colour, **point)
    rungs = [f"{style.label_of(s.arm, 30)}, rung {name_rung(s.rung, s.branch)}" for s in scores]
    axes.set_yticks(range(len(scores)), rungs)
    axes.set_ylim(-0.7, max(len(scores), 1) - 0.3)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_title("Forecast of the held-out rungs against what was measured")
    axes.set_xlabel(
        "predicted / measured - 1, in percent: thick 90 %, thin 95 %; grey within 0.5 %"
        + (f"\n{style.label_of(note, 120)}" if note else "")
    )
    if not scores:
        style.write_across(axes, "nothing to compare yet")
    return figure
