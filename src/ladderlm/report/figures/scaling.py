"""Loss against compute, and what a change is worth along it.

Owns the scaling figure of a study: points of every seed, fitted lines with bands, held-out rungs
hollow, the compute multiplier below, residuals at the bottom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray
from scipy import stats

from ladderlm.report.figures.style import (
    GREY,
    colour_of,
    label_of,
    marker_of,
    new_figure,
    paler,
    spell_tick,
    styled,
)
from ladderlm.scaling.compare import Comparison
from ladderlm.scaling.joint import LadderLaw
from ladderlm.scaling.points import Points

__all__ = ["ScalingPlot", "scaling_figure"]

X_LABELS = {
    "flops": "training FLOPs (exact, nominal causal)",
    "device_seconds": "device-hours (median step time x steps)",
    "tokens": "training tokens",
}
X_NAMES = {"flops": "compute", "device_seconds": "device time", "tokens": "tokens"}
WIDEST = 3.0  # times the largest m, and under the smallest: intervals beyond leave the frame


@dataclass(frozen=True, kw_only=True)
class ScalingPlot:
    """What a scaling figure shows.

    Args:
        points: runs that count; x in FLOPs, device seconds or tokens.
        arms: names, the baseline first; an arm keeps its colour and marker in every figure.
        law: fitted to them over the same x; None: not enough points. Without it and without
            comparisons, the losses stand alone.
        comparisons: of each variant with the baseline over the same x.
        held_out: rungs kept out of the forecast's fit, drawn hollow.
        x: a key of `X_LABELS`.
        caption: lines under the figure.
        marked: (points,), those left out of law and comparisons, drawn crossed; None: none.
    """

    points: Points
    arms: Sequence[str]
    law: LadderLaw | None = None
    comparisons: Sequence[Comparison] = ()
    held_out: Sequence[int] = ()
    x: str = "flops"
    caption: Sequence[str] = ()
    marked: NDArray[np.bool_] | None = None

    @property
    def unit(self) -> float:
        """What x is multiplied by: device time is shown in hours."""
        return 1 / 3600 if self.x == "device_seconds" else 1.0

    @property
    def crossed(self) -> NDArray[np.bool_]:
        """The points that are drawn crossed."""
        return np.zeros(len(self.points), dtype=bool) if self.marked is None else self.marked


@styled
def scaling_figure(plot: ScalingPlot) -> Figure:
    """Draw a study over one axis."""
    points, law, unit = plot.points, plot.law, plot.unit
    if law is None and not plot.comparisons:  # nothing to draw under the losses
        figure, top = new_figure(8.0, 4.6)
        middle = bottom = None
    else:
        figure, axes = new_figure(8.0, 8.6, 3, height_ratios=[3, 1.6, 1], sharex=True)
        top, middle, bottom = axes
    for index, arm in enumerate(plot.arms):
        own = points.arm == arm
        crossed = own & plot.crossed
        top.scatter(  # a cross over the run's own marker
            points.x[crossed] * unit,
            points.loss[crossed],
            s=90,
            marker="x",
            color="black",
            linewidths=1.0,
            zorder=4,
        )
        for length in np.unique(points.branch).tolist():
            _draw_arm(top, bottom, plot, index, length)
    if not len(points):  # a logarithmic axis needs a range
        top.axis((1.0, 10.0, 1.0, 10.0))
    top.set_ylabel("validation, bits per byte")
    top.set_yscale("log")
    top.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    top.yaxis.set_minor_formatter(lambda value, _: f"{value:.3g}")
    top.tick_params(axis="y", which="minor", labelsize=8)
    name = X_NAMES[plot.x]
    top.set_title(f"Loss against {name}: each seed a point, held-out rungs hollow")
    if len(points):
        top.legend()
    if middle is not None and bottom is not None:
        _draw_multipliers(middle, plot)
        middle.set_title(f"m: baseline's {name} for the same loss / {name} used (dotted: trend)")
        bottom.axhline(0, color=GREY, linewidth=0.8)
        by_seed = law is not None and law.seed_sd is not None
        bottom.set_title(f"Residuals, in sd of {'a seed' if by_seed else 'the fit'}")
        bottom.set_ylabel("sd")
    lowest = top if bottom is None else bottom
    lowest.set_xscale("log")
    lowest.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    lowest.xaxis.set_minor_locator(NullLocator())
    lowest.xaxis.set_major_formatter(spell_tick)
    lowest.set_xlabel(X_LABELS[plot.x])
    if plot.caption:
        lines = "\n".join(label_of(line, 118) for line in plot.caption)
        figure.supxlabel(lines, fontsize=8, color=GREY, x=0.02, ha="left")
    if law is None:
        top.text(0.5, 0.5, "not enough points for a fit", transform=top.transAxes, ha="center")
    return figure


def _draw_arm(top: Any, bottom: Any, plot: ScalingPlot, index: int, length: float) -> None:
    """Draw one arm's runs of a length, and the line, band and residuals of those fitted.

    Runs longer or shorter than their rung's are pale, and larger or smaller.
    """
    arm, law, unit = plot.arms[index], plot.law, plot.unit
    runs = (plot.points.arm == arm) & (plot.points.branch == length)
    own, fitted_to = plot.points.where(runs), ~plot.crossed[runs]
    size = 34 * min(max(length, 0.4), 2.5)
    colour, name, width = colour_of(index), label_of(arm), 1.4
    if length != 1:
        colour, name, width = paler(colour), f"{name}, {length:g}x as long", 0.9
    hollow = np.isin(own.rung, list(plot.held_out))
    for mask, face, label in ((~hollow, colour, name), (hollow, "white", None)):
        top.scatter(
            own.x[mask] * unit,
            own.loss[mask],
            s=size,
            facecolors=face,
            edgecolors=colour,
            linewidths=1.4,
            marker=marker_of(index),
            zorder=3,
            label=label if mask.any() else None,
        )
    if law is None or arm not in law.arms or length not in law.branches:
        return
    own = own.where(fitted_to)
    if not len(own):
        return
    grid = np.geomspace(own.x.min(), own.x.max(), 60)
    fitted = law.predict(arm, grid, length)
    half = stats.t.ppf(0.975, law.freedom) * law.standard_error(arm, grid, length)
    top.plot(grid * unit, fitted, color=colour, linewidth=width, linestyle=("-", "--")[index % 2])
    top.fill_between(
        grid * unit,
        fitted * np.exp(-half),
        fitted * np.exp(half),
        color=colour,
        alpha=0.15 if length == 1 else 0.0,  # one band is enough to see
        linewidth=0,
    )
    if law.sigma > 0:
        residuals = np.log(own.loss / law.predict(arm, own.x, length)) / (law.seed_sd or law.sigma)
        bottom.scatter(own.x * unit, residuals, s=18, color=colour, marker=marker_of(index))


def _draw_multipliers(axes: Any, plot: ScalingPlot) -> None:
    """Draw m with its 95 % interval at every rung and the pooled band.

    A wide interval leaves the frame rather than flatten the rest.
    """
    comparisons, unit = plot.comparisons, plot.unit
    axes.axhline(1.0, color=GREY, linewidth=1.0)
    axes.set_ylabel("m")
    for comparison in comparisons:
        index = plot.arms.index(comparison.variant)
        colour = colour_of(index)
        for rung in comparison.rungs:
            estimate = rung.estimate
            if math.isfinite(estimate.low_95) and math.isfinite(estimate.high_95):
                axes.plot(
                    [rung.x * unit] * 2,
                    [estimate.low_95, estimate.high_95],
                    color=colour,
                    linewidth=1.4,
                )
            face = "white" if rung.extrapolated else colour
            axes.scatter(
                [rung.x * unit],
                [estimate.value],
                s=34,
                facecolors=face,
                edgecolors=colour,
                marker=marker_of(index),
                zorder=3,
            )
        pooled = comparison.pooled
        if math.isfinite(pooled.low_95) and math.isfinite(pooled.high_95):
            span = [rung.x * unit for rung in comparison.rungs]
            axes.fill_between(
                [min(span), max(span)],
                pooled.low_95,
                pooled.high_95,
                color=colour,
                alpha=0.12,
                linewidth=0,
                label=f"{label_of(comparison.variant)}: pooled {pooled.value:.2f} "
                f"({pooled.low_95:.2f} to {pooled.high_95:.2f})",
            )
        _draw_trend(axes, comparison, colour, unit)
    if comparisons:
        values = [1.0, *(rung.estimate.value for c in comparisons for rung in c.rungs)]
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, min(values) / WIDEST), min(high, max(values) * WIDEST))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def _draw_trend(axes: Any, comparison: Comparison, colour: str, unit: float) -> None:
    """Draw m(C) by the trend line, through its value at ten times the top rung."""
    trend, ahead, span = comparison.trend, comparison.m_at_10x, comparison.rungs
    if not math.isfinite(trend.value):
        return
    grid = np.geomspace(span[0].x, span[-1].x, 20)
    log_m = math.log(ahead.value) + trend.value * np.log(grid / (10 * span[-1].x))
    axes.plot(grid * unit, np.exp(log_m), color=colour, linewidth=1.0, linestyle=":")
