"""How the learning rates of a study were found.

Owns the figure of its brackets, arm by arm and rung by rung, and of the power law through them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ladderlm.report.figures.style import (
    GREY,
    colour_of,
    label_of,
    marker_of,
    new_mosaic,
    spell_tick,
    styled,
)
from ladderlm.study.tuning import Bracket, Tuning
from ladderlm.units import format_flops

__all__ = ["rates_figure"]

LEGEND = (
    "above: star, vertex of the parabola; dashed, rate of the ladder; ring, best on the edge of "
    "its grid; triangle, far above or diverged",
    "below: hollow, the check of the law; cross, what the law had predicted for it; band, 95 %; "
    "dots, rates of the ladder's rungs",
)


@styled
def rates_figure(tunings: Sequence[Tuning], arms: Sequence[str], flops: Sequence[float]) -> Figure:
    """Draw the search for the rates of the arms that were tuned.

    Args:
        tunings: with at least one bracket among them.
        arms: names, the baseline first.
        flops: of the ladder's rungs.
    """
    shown = [tuning for tuning in tunings if tuning.brackets]
    n_columns = max(len(tuning.brackets) for tuning in shown)
    rows = [[f"{i}.{k}" for k in range(n_columns)] for i in range(len(shown))]
    figure, axes = new_mosaic(
        9.0, 2.5 * len(shown) + 4.4, [*rows, ["law"] * n_columns], [2.5] * len(shown) + [3.4]
    )
    for i, tuning in enumerate(shown):
        for k in range(n_columns):
            panel = axes[f"{i}.{k}"]
            if k < len(tuning.brackets):
                _draw_bracket(panel, tuning, tuning.brackets[k], arms.index(tuning.arm))
            else:
                panel.set_axis_off()
        axes[f"{i}.0"].set_ylabel("loss above the best, %")
        _draw_law(axes["law"], tuning, arms.index(tuning.arm), flops)
    law = axes["law"]
    law.set_xscale("log")
    law.set_yscale("log")
    _spell(law.xaxis)
    _spell(law.yaxis)
    law.set_xlabel("training FLOPs")
    law.set_ylabel("learning rate")
    law.set_title("Best rate against compute")
    law.legend(fontsize=9)
    problems = [f"{tuning.arm}: {tuning.problem}" for tuning in shown if tuning.problem]
    lines = "\n".join([*LEGEND, *(label_of(line, 130) for line in problems)])
    figure.supxlabel(lines, fontsize=8, color=GREY, x=0.02, ha="left")
    return figure


def _spell(axis: Any) -> None:
    """Number a logarithmic axis at 1, 2 and 5."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(spell_tick)


def _draw_bracket(axes: Any, tuning: Tuning, bracket: Bracket, index: int) -> None:
    """Draw the losses of one grid in percent above its best, and their parabola."""
    colour, rates = colour_of(index), np.array(bracket.rates)
    ended = np.isfinite(bracket.losses)
    axes.set_xscale("log")
    axes.set_xticks(bracket.rates, [f"{rate:.2g}" for rate in bracket.rates], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    name = label_of(tuning.arm, 16)
    axes.set_title(f"{name}, rung {bracket.rung + 1}: {format_flops(bracket.flops)}", fontsize=9)
    if not ended.any():
        axes.text(0.5, 0.5, "all diverged", transform=axes.transAxes, ha="center")
        return
    best = int(np.argmin(bracket.losses))
    above = 100 * (np.array(bracket.losses) / bracket.losses[best] - 1)
    near = above[max(best - 1, 0) : best + 2]
    top = 3 * float(near[np.isfinite(near)].max()) or 1.0
    axes.set_ylim(-0.25 * top, top)
    inside = above < top
    axes.scatter(
        rates[inside], above[inside], s=34, color=colour, marker=marker_of(index), zorder=3
    )
    at_top = axes.get_xaxis_transform()
    for rate in rates[~inside]:
        axes.plot([rate], [0.95], color=colour, marker="^", transform=at_top, zorder=3)
    if bracket.curvature is not None:
        floor = bracket.regret(bracket.rates[best]) or 0.0
        grid = np.geomspace(rates[max(best - 1, 0)] / 1.2, rates[best + 1] * 1.2, 60)
        line = bracket.curvature * np.log(grid / bracket.best_rate) ** 2 - floor
        axes.plot(grid, 100 * np.expm1(line), color=colour, linewidth=1.2)
        axes.plot(
            [bracket.best_rate],
            [100 * math.expm1(-floor)],
            color=colour,
            markeredgecolor="black",
            marker="*",
            markersize=12,
            zorder=4,
        )
    if bracket.edge:
        axes.scatter([rates[best]], [0.0], s=220, facecolors="none", edgecolors="black", zorder=4)
        side = "left" if best == 0 else "right"
        axes.text(rates[best], -0.2 * top, "edge of the grid", ha=side, fontsize=8)
    if tuning.law is not None:
        used = tuning.law.rate(bracket.flops)
        axes.axvline(used, color="black", linestyle="--", linewidth=1.0)


def _draw_law(axes: Any, tuning: Tuning, index: int, flops: Sequence[float]) -> None:
    """Draw the best rates of one arm, the law through them, and the rates taken from it."""
    colour, marker = colour_of(index), marker_of(index)
    name = label_of(tuning.arm)
    for bracket in tuning.brackets:
        check = bracket.rung > 1
        if check:  # its grid was laid around what the law of the lower rungs had said
            predicted = bracket.rates[len(bracket.rates) // 2]
            axes.plot([bracket.flops], [predicted], color=colour, marker="x", markersize=8)
        axes.scatter(
            [bracket.flops],
            [bracket.best_rate],
            s=44,
            facecolors="white" if check else colour,
            edgecolors=colour,
            marker=marker,
            zorder=4,
            label=name if bracket is tuning.brackets[0] else None,
        )
    law = tuning.law
    if law is None:
        return
    budgets = np.geomspace(min(flops), max(flops), 60)
    line = np.array([law.at_reference * (c / law.reference) ** law.exponent for c in budgets])
    half = 1.96 * np.array([law.rate_sd(c) for c in budgets])
    style = ("-", "--")[index % 2]
    fitted = f"rate ~ C^{law.exponent:.2f}"
    axes.plot(budgets, line, color=colour, linewidth=1.4, linestyle=style, label=fitted)
    axes.fill_between(
        budgets, line * np.exp(-half), line * np.exp(half), color=colour, alpha=0.13, linewidth=0
    )
    used = [law.rate(c) for c in flops]
    axes.scatter(flops, used, s=10, color="black", marker=".", zorder=5)
