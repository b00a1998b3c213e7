"""Loss against compute, and the effect of a change on it.

Owns the scaling figure of a study: a point for every seed, held-out rungs hollow, fitted lines with
bands, the compute multiplier below them, and the residuals at the bottom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from ladderlm.report.figures import style
from ladderlm.scaling.compare import Comparison, Estimate
from ladderlm.scaling.joint import LadderLaw
from ladderlm.scaling.points import Points

__all__ = ["ScalingPlot", "scaling_figure"]

X_LABELS = {
    "flops": "training FLOPs (exact, nominal causal)",
    "device_seconds": "device-hours (median step time x steps)",
    "tokens": "training tokens",
}
X_NAMES = {"flops": "compute", "device_seconds": "device time", "tokens": "tokens"}
WIDEST = 3.0  # the frame ends at this times the largest m, and at the smallest m over this


@dataclass(frozen=True, kw_only=True)
class ScalingPlot:
    """The contents of a scaling figure.

    Args:
        points: runs that count; x in FLOPs, device seconds or tokens.
        arms: names, the baseline first; an arm has the same colour and marker in every figure.
        law: fitted over the same x; None if there are not enough points. Without it and without
            comparisons, only the losses are drawn.
        comparisons: of each variant with the baseline over the same x.
        held_out: rungs kept out of the forecast's fit, drawn hollow.
        x: a key of `X_LABELS`.
        caption: lines under the figure.
        marked: (points,), runs left out of law and comparisons, drawn crossed; None: none.
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
        """Factor from x to what is shown: device time is shown in hours."""
        return 1 / 3600 if self.x == "device_seconds" else 1.0

    @property
    def crossed(self) -> NDArray[np.bool_]:
        """The points that are drawn crossed."""
        return np.zeros(len(self.points), dtype=bool) if self.marked is None else self.marked


@style.styled
def scaling_figure(plot: ScalingPlot) -> Figure:
    """Draw a study over one axis."""
    points, law, unit = plot.points, plot.law, plot.unit
    if law is None and not plot.comparisons:  # nothing to draw under the losses
        figure, top = style.new_figure(8.0, 4.6)
        middle = bottom = None
    else:
        figure, axes = style.new_figure(8.0, 8.6, 3, height_ratios=[3, 1.6, 1], sharex=True)
        top, middle, bottom = axes
    cross = {"marker": "x", "color": "black", "linewidths": 1.0, "zorder": 4}
    for index, arm in enumerate(plot.arms):
        crossed = (points.arm == arm) & plot.crossed
        top.scatter(points.x[crossed] * unit, points.loss[crossed], s=90, **cross)
        for length in np.unique(points.branch).tolist():
            _draw_arm(top, bottom, plot, index, length)
    if not len(points):  # a logarithmic axis needs a range
        top.axis((1.0, 10.0, 1.0, 10.0))
    top.set_ylabel("validation, bits per byte")
    top.set_yscale("log")
    for set_formatter in (top.yaxis.set_major_formatter, top.yaxis.set_minor_formatter):
        set_formatter(lambda value, _: f"{value:.3g}")
    top.tick_params(axis="y", which="minor", labelsize=8)
    name = X_NAMES[plot.x]
    top.set_title(f"Loss against {name}: one point per seed, held-out rungs hollow")
    if len(points):
        top.legend()
    if middle is not None and bottom is not None:
        _draw_multipliers(middle, plot)
        middle.set_title(f"m: baseline's {name} for the same loss / {name} used (dotted: trend)")
        bottom.axhline(0, color=style.GREY, linewidth=0.8)
        by_seed = law is not None and law.seed_sd is not None
        bottom.set_title(f"Residuals, in sd of {'a seed' if by_seed else 'the fit'}")
        bottom.set_ylabel("sd")
    lowest = top if bottom is None else bottom
    lowest.set_xscale("log")
    style.log_ticks(lowest.xaxis)
    lowest.set_xlabel(X_LABELS[plot.x])
    if plot.caption:
        style.note_below(figure, plot.caption)
    if law is None:
        style.write_across(top, "not enough points for a fit")
    return figure


def _draw_arm(top: Any, bottom: Any, plot: ScalingPlot, index: int, length: float) -> None:
    """Draw one arm's runs of one length, and the line, band and residuals of those fitted.

    Runs of other lengths than their rung's are pale, longer ones larger and shorter ones smaller.
    """
    arm, law, unit = plot.arms[index], plot.law, plot.unit
    runs = (plot.points.arm == arm) & (plot.points.branch == length)
    own, fitted_to = plot.points.where(runs), ~plot.crossed[runs]
    size = 34 * min(max(length, 0.4), 2.5)
    colour, name, width = style.colour_of(index), style.label_of(arm), 1.4
    if length != 1:
        colour, name, width = style.paler(colour), f"{name}, {length:g}x as long", 0.9
    hollow, marker = np.isin(own.rung, list(plot.held_out)), style.marker_of(index)
    dots: dict[str, Any] = {"s": size, "edgecolors": colour, "linewidths": 1.4, "zorder": 3}
    for mask, face, label in ((~hollow, colour, name), (hollow, "white", None)):
        dots |= {"facecolors": face, "label": label if mask.any() else None}
        top.scatter(own.x[mask] * unit, own.loss[mask], marker=marker, **dots)
    own = own.where(fitted_to)
    if law is None or arm not in law.arms or length not in law.branches or not len(own):
        return
    grid = np.geomspace(own.x.min(), own.x.max(), 60)
    fitted = law.predict(arm, grid, length)
    half = stats.t.ppf(0.975, law.freedom) * law.standard_error(arm, grid, length)
    top.plot(grid * unit, fitted, color=colour, linewidth=width, linestyle=("-", "--")[index % 2])
    low, high = fitted * np.exp(-half), fitted * np.exp(half)
    alpha = 0.15 if length == 1 else 0.0  # more than one band would be hard to read
    top.fill_between(grid * unit, low, high, color=colour, alpha=alpha, linewidth=0)
    if law.sigma > 0:
        residuals = np.log(own.loss / law.predict(arm, own.x, length)) / (law.seed_sd or law.sigma)
        bottom.scatter(own.x * unit, residuals, s=18, color=colour, marker=marker)


def _draw_multipliers(axes: Any, plot: ScalingPlot) -> None:
    """Draw m with its 95 % interval at every rung, and the pooled band.

    A wide interval extends beyond the frame, so that it does not flatten the others.
    """
    comparisons, unit = plot.comparisons, plot.unit
    axes.axhline(1.0, color=style.GREY, linewidth=1.0)
    axes.set_ylabel("m")
    for comparison in comparisons:
        index = plot.arms.index(comparison.variant)
        colour = style.colour_of(index)
        dot = {"s": 34, "edgecolors": colour, "marker": style.marker_of(index), "zorder": 3}
        for rung in comparison.rungs:
            x, estimate = rung.x * unit, rung.estimate
            if _is_bounded(estimate):
                ends = [estimate.low_95, estimate.high_95]
                axes.plot([x, x], ends, color=colour, linewidth=1.4)
            face = "white" if rung.extrapolated else colour
            axes.scatter([x], [estimate.value], facecolors=face, **dot)
        pooled = comparison.pooled
        if _is_bounded(pooled):
            xs = [rung.x * unit for rung in comparison.rungs]
            label = (
                f"{style.label_of(comparison.variant)}: pooled {pooled.value:.2f} "
                f"({pooled.low_95:.2f} to {pooled.high_95:.2f})"
            )
            look = {"color": colour, "alpha": 0.12, "linewidth": 0, "label": label}
            axes.fill_between([min(xs), max(xs)], pooled.low_95, pooled.high_95, **look)
        _draw_trend(axes, comparison, colour, unit)
    if comparisons:
        values = [1.0, *(rung.estimate.value for c in comparisons for rung in c.rungs)]
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, min(values) / WIDEST), min(high, max(values) * WIDEST))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def _is_bounded(estimate: Estimate) -> bool:
    return math.isfinite(estimate.low_95) and math.isfinite(estimate.high_95)


def _draw_trend(axes: Any, comparison: Comparison, colour: str, unit: float) -> None:
    """Draw m(C) by the trend line, through its value at ten times the top rung."""
    trend, ahead, rungs = comparison.trend, comparison.m_at_10x, comparison.rungs
    if math.isfinite(trend.value):
        grid = np.geomspace(rungs[0].x, rungs[-1].x, 20)
        log_m = math.log(ahead.value) + trend.value * np.log(grid / (10 * rungs[-1].x))
        axes.plot(grid * unit, np.exp(log_m), color=colour, linewidth=1.0, linestyle=":")
