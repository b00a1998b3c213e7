"""The search for the learning rates of a study.

Owns the figure of its brackets, arm by arm and rung by rung, and of the power law through them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ladderlm.report.figures import style
from ladderlm.study.tuning import Bracket, Tuning
from ladderlm.units import format_flops

__all__ = ["rates_figure"]

LEGEND = (
    "above: star, vertex of the parabola; dashed, rate of the ladder; ring, best rate at the edge; "
    "triangle, far above or diverged",
    "below: hollow, check of the law; cross, its prediction for the check; band, 95 %; dots, "
    "rates of the ladder's rungs",
)


@style.styled
def rates_figure(tunings: Sequence[Tuning], arms: Sequence[str], flops: Sequence[float]) -> Figure:
    """Draw the search for the rates of the arms that were tuned.

    Args:
        tunings: with at least one bracket among them.
        arms: names, the baseline first.
        flops: of the ladder's rungs.
    """
    shown = [tuning for tuning in tunings if tuning.brackets]
    n_columns = max(len(tuning.brackets) for tuning in shown)
    figure = Figure(figsize=(9.0, 2.5 * len(shown) + 4.4), layout="constrained")
    rows: list[Any] = [[f"{i}.{k}" for k in range(n_columns)] for i in range(len(shown))]
    heights = [2.5] * len(shown) + [3.4]
    axes = figure.subplot_mosaic([*rows, ["law"] * n_columns], height_ratios=heights)
    law = axes["law"]
    for i, tuning in enumerate(shown):
        index = arms.index(tuning.arm)
        for k, name in enumerate(rows[i]):
            if k < len(tuning.brackets):
                _draw_bracket(axes[name], tuning, tuning.brackets[k], index)
            else:
                axes[name].set_axis_off()
        axes[f"{i}.0"].set_ylabel("loss above the best, %")
        _draw_law(law, tuning, index, flops)
    law.set_xscale("log")
    law.set_yscale("log")
    style.log_ticks(law.xaxis)
    style.log_ticks(law.yaxis)
    law.set_xlabel("training FLOPs")
    law.set_ylabel("learning rate")
    law.set_title("Best rate against compute")
    law.legend(fontsize=9)
    problems = [f"{tuning.arm}: {tuning.problem}" for tuning in shown if tuning.problem]
    style.note_below(figure, [*LEGEND, *problems], 130)
    return figure


def _draw_bracket(axes: Any, tuning: Tuning, bracket: Bracket, index: int) -> None:
    """Draw the losses of one grid, in percent above its best, and their parabola."""
    colour, rates = style.colour_of(index), np.array(bracket.rates)
    ended = np.isfinite(bracket.losses)
    axes.set_xscale("log")
    axes.set_xticks(bracket.rates, [f"{rate:.2g}" for rate in bracket.rates], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    name = style.label_of(tuning.arm, 16)
    axes.set_title(f"{name}, rung {bracket.rung + 1}: {format_flops(bracket.flops)}", fontsize=9)
    if not ended.any():
        style.write_across(axes, "all diverged")
        return
    best = int(np.argmin(bracket.losses))
    above = 100 * (np.array(bracket.losses) / bracket.losses[best] - 1)
    near = above[max(best - 1, 0) : best + 2]
    top = 3 * float(near[np.isfinite(near)].max()) or 1.0
    axes.set_ylim(-0.25 * top, top)
    inside = above < top
    marker = style.marker_of(index)
    axes.scatter(rates[inside], above[inside], s=34, color=colour, marker=marker, zorder=3)
    at_top = axes.get_xaxis_transform()
    for rate in rates[~inside]:
        axes.plot([rate], [0.95], color=colour, marker="^", transform=at_top, zorder=3)
    if bracket.curvature is not None:
        floor = bracket.regret(bracket.rates[best]) or 0.0
        grid = np.geomspace(rates[max(best - 1, 0)] / 1.2, rates[best + 1] * 1.2, 60)
        line = bracket.curvature * np.log(grid / bracket.best_rate) ** 2 - floor
        axes.plot(grid, 100 * np.expm1(line), color=colour, linewidth=1.2)
        style.mark_optimum(axes, bracket.best_rate, 100 * math.expm1(-floor), colour)
    if bracket.edge:
        axes.scatter([rates[best]], [0.0], s=220, facecolors="none", edgecolors="black", zorder=4)
        side = "left" if best == 0 else "right"
        axes.text(rates[best], -0.2 * top, "edge of the grid", ha=side, fontsize=8)
    if tuning.law is not None:
        axes.axvline(tuning.law.rate(bracket.flops), color="black", linestyle="--", linewidth=1.0)


def _draw_law(axes: Any, tuning: Tuning, index: int, flops: Sequence[float]) -> None:
    """Draw the best rates of one arm, the law through them, and the rates taken from it."""
    colour, law = style.colour_of(index), tuning.law
    look: dict[str, Any] = {"edgecolors": colour, "marker": style.marker_of(index), "zorder": 4}
    for bracket in tuning.brackets:
        check = bracket.rung > 1
        if check:  # the centre of its grid is the prediction of the law of the lower rungs
            predicted = bracket.rates[len(bracket.rates) // 2]
            axes.plot([bracket.flops], [predicted], color=colour, marker="x", markersize=8)
        look["label"] = style.label_of(tuning.arm) if bracket is tuning.brackets[0] else None
        face = "white" if check else colour
        axes.scatter([bracket.flops], [bracket.best_rate], s=44, facecolors=face, **look)
    if law is None:
        return
    budgets = np.geomspace(min(flops), max(flops), 60)
    line = np.array([law.at_reference * (c / law.reference) ** law.exponent for c in budgets])
    half = 1.96 * np.array([law.rate_sd(c) for c in budgets])
    dashes, fitted = ("-", "--")[index % 2], f"rate ~ C^{law.exponent:.2f}"
    axes.plot(budgets, line, color=colour, linewidth=1.4, linestyle=dashes, label=fitted)
    low, high = line * np.exp(-half), line * np.exp(half)
    axes.fill_between(budgets, low, high, color=colour, alpha=0.13, linewidth=0)
    used = [law.rate(c) for c in flops]
    axes.scatter(flops, used, s=10, color="black", marker=".", zorder=5)
