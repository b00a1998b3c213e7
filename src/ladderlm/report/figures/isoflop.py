"""Bowls of equal compute.

Owns the figure of an isoFLOP fit: loss against parameters and against tokens at every budget, the
parabolas, and both estimates of every optimum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ladderlm.report.figures.style import GREY, marker_of, new_figure, shade_of, spell_tick, styled
from ladderlm.scaling.isoflop import Bowl

__all__ = ["isoflop_figure"]

TITLES = {"params": "by parameters", "tokens": "by tokens"}


@styled
def isoflop_figure(bowls: Sequence[Bowl], note: str = "", loss: str = "loss") -> Figure:
    """Draw the bowls of an isoflop fit.

    Args:
        note: a line under the figure.
        loss: its name and unit.
    """
    figure, axes = new_figure(9.0, 4.4, 1, ncols=2, sharey=True)
    for panel, name in zip(axes, TITLES, strict=True):
        for index, bowl in enumerate(bowls):
            _draw_bowl(panel, bowl, name, index, shade_of(index, len(bowls)))
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=12))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(spell_tick)
        panel.set_xlabel(name)
        panel.set_title(f"Loss at equal compute, {TITLES[name]}")
    axes[0].set_ylabel(loss)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="FLOPs", loc="outside right upper", fontsize=8)
    lines = ["star: vertex of the parabola in ln N; cross: in ln D", *([note] if note else [])]
    figure.supxlabel("\n".join(lines), fontsize=9, color=GREY)
    return figure


def _draw_bowl(axes: Any, bowl: Bowl, name: str, index: int, colour: Any) -> None:
    """Draw one budget's points, its parabola and both optima."""
    params, tokens, loss = (np.array(v) for v in (bowl.params, bowl.tokens, bowl.losses))
    x = params if name == "params" else tokens
    axes.scatter(
        x,
        loss,
        s=26,
        color=colour,
        marker=marker_of(index),
        label=f"{bowl.flops:.2g}",
        zorder=3,
    )
    optima = {"params": bowl.params_opt, "tokens": bowl.tokens_opt}
    best = optima.pop(name)
    if best is None:
        return
    log_x = np.log(x)
    line = np.polyfit(log_x - log_x.mean(), loss, 2)
    grid = np.linspace(log_x.min(), log_x.max(), 60)
    axes.plot(np.exp(grid), np.polyval(line, grid - log_x.mean()), color=colour, linewidth=1.2)
    # the other axis' optimum stands at the compute that both share: x = product / optimum
    product = float(np.exp((np.log(params) + np.log(tokens)).mean()))
    shown = {name: best} | {axis: product / at for axis, at in optima.items() if at is not None}
    for axis, at in shown.items():
        height = float(np.polyval(line, np.log(at) - log_x.mean()))
        axes.plot(
            [at],
            [height],
            color=colour,
            markeredgecolor="black",
            marker="*" if axis == "params" else "X",
            markersize=12 if axis == "params" else 8,
            zorder=4,
        )
