"""Bowls of equal compute.

Owns the figure of an isoFLOP fit: loss against parameters and against tokens at every budget, the
parabolas, and both estimates of every optimum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ladderlm.report.figures import style
from ladderlm.scaling.isoflop import Bowl

__all__ = ["isoflop_figure"]


@style.styled
def isoflop_figure(bowls: Sequence[Bowl], note: str = "", loss: str = "loss") -> Figure:
    """Draw the bowls of an isoFLOP fit.

    Args:
        note: a line under the figure.
        loss: its name and unit.
    """
    figure, axes = style.new_figure(9.0, 4.4, 1, ncols=2, sharey=True)
    for panel, name, title in zip(
        axes, ("params", "tokens"), ("parameters", "tokens"), strict=True
    ):
        for index, bowl in enumerate(bowls):
            _draw_bowl(panel, bowl, name, index, style.shade_of(index, len(bowls)))
        panel.set_xscale("log")
        style.log_ticks(panel.xaxis, (1.0, 3.0))
        panel.set_xlabel(title)
        panel.set_title(f"Loss at equal compute, by {title}")
    axes[0].set_ylabel(loss)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="FLOPs", loc="outside right upper", fontsize=8)
    lines = ["star: vertex of the parabola in ln N; cross: in ln D", *([note] if note else [])]
    style.note_below(figure, lines)
    return figure


def _draw_bowl(axes: Any, bowl: Bowl, name: str, index: int, colour: Any) -> None:
    """Draw one budget's points, its parabola and both optima."""
    params, tokens, loss = (np.array(v) for v in (bowl.params, bowl.tokens, bowl.losses))
    x = params if name == "params" else tokens
    label, marker = f"{bowl.flops:.2g}", style.marker_of(index)
    axes.scatter(x, loss, s=26, color=colour, marker=marker, label=label, zorder=3)
    optima = {"params": bowl.params_opt, "tokens": bowl.tokens_opt}
    best = optima.pop(name)
    if best is None:
        return
    log_x = np.log(x)
    line = np.polyfit(log_x - log_x.mean(), loss, 2)
    grid = np.linspace(log_x.min(), log_x.max(), 60)
    axes.plot(np.exp(grid), np.polyval(line, grid - log_x.mean()), color=colour, linewidth=1.2)
    # The other axis' optimum is drawn at the compute that both share: x = N D / optimum.
    product = float(np.exp((np.log(params) + np.log(tokens)).mean()))
    shown = {name: best} | {axis: product / at for axis, at in optima.items() if at is not None}
    for axis, at in shown.items():
        height = float(np.polyval(line, np.log(at) - log_x.mean()))
        look = ("*", 12) if axis == "params" else ("X", 8)
        style.mark_optimum(axes, at, height, colour, *look)
