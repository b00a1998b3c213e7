"""The figures of a study and their captions.

Owns the choice of figures from a study's table and fits. How each one is drawn is in `figures/`.
Fits nothing.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ladderlm.files import publish, publish_text
from ladderlm.report.figures.forecast import forecast_figure
from ladderlm.report.figures.isoflop import isoflop_figure
from ladderlm.report.figures.rates import rates_figure
from ladderlm.report.figures.scaling import ScalingPlot, scaling_figure
from ladderlm.report.figures.search import search_figure
from ladderlm.report.figures.style import Figure, png_bytes, svg_text
from ladderlm.report.sections import AXES
from ladderlm.scaling.compare import Comparison
from ladderlm.study.baseline import BestSizes
from ladderlm.study.fits import AxisFit, Fits
from ladderlm.study.options import LadderOptions
from ladderlm.study.results import Results
from ladderlm.study.spec import Arm
from ladderlm.units import format_flops

__all__ = ["draw_figures", "publish_figure"]

ENOUGH = 9.9  # largest over smallest compute: a decade, met to one step


def draw_figures(
    arms: Sequence[Arm], ladder: LadderOptions, results: Results, fits: Fits
) -> dict[str, Figure]:
    """Draw the figures of a study.

    Returns:
        By name: one for each of `AXES`, and forecast, rates, isoflop and search if the study has
        them.
    """
    names = [arm.name for arm in arms]
    figures = {x: _draw_scaling(names, ladder, results, fits, x) for x in AXES.values()}
    if fits.forecast is not None and fits.forecast_score:
        note = f"written {fits.forecast.written_at}"
        figures["forecast"] = forecast_figure(fits.forecast_score, names, note)
    if any(tuning.brackets for tuning in fits.tuning):
        figures["rates"] = rates_figure(fits.tuning, names, ladder.flops)
    if isinstance(fits.isoflop, BestSizes) and fits.isoflop.bowls:
        figures["isoflop"] = _draw_bowls(fits.isoflop)
    if fits.search is not None and fits.search.rows:
        figures["search"] = search_figure(fits.search)
    return figures


def _draw_scaling(
    names: Sequence[str], ladder: LadderOptions, results: Results, fits: Fits, x: str
) -> Figure:
    n_rungs, axis, shown = len(ladder.flops), fits.axes[x], results.compared
    times = fits.incomparable_times if x == "device_seconds" else {}
    marked = np.array([row.run_id in times for row in shown], dtype=bool)
    caption = _caption(len(names), shown, axis)
    if marked.any():
        caption.append(
            f"crossed: {marked.sum()} runs that shared the machine or ran on other hardware; "
            "their times are not fitted"
        )
    return scaling_figure(
        ScalingPlot(
            points=shown.points(x),
            arms=names,
            law=axis.law,
            comparisons=[c for c in axis.comparisons.values() if isinstance(c, Comparison)],
            held_out=range(n_rungs - ladder.holdout, n_rungs),
            x=x,
            caption=caption,
            marked=marked,
        )
    )


def _caption(n_arms: int, results: Results, axis: AxisFit) -> list[str]:
    """Return the lines below a scaling figure: its runs, law and hardware."""
    seeds = len({row.seed for row in results})
    lines = [
        f"{len(results)} runs: {n_arms} arms, {len({row.rung for row in results})} rungs, "
        f"{seeds} seed{'s' * (seeds != 1)}; {format_flops(sum(row.flops_spent for row in results))}"
        " in all; bands and bars: 95 %"
    ]
    if len(lengths := sorted({row.branch for row in results})) > 1:
        shown = ", ".join(f"{length:g}" for length in lengths)
        lines.append(f"every size trained {shown} times as long as its rung")
    law, card = axis.law, axis.card
    if law is not None and card is not None:
        lines += [
            f"{card.form}; {law.shape}",
            f"{card.loss}, weights {card.weights}",
            f"{card.n_used} runs fitted, in {card.n_cells} means; "
            f"{card.degrees_of_freedom} degrees of freedom",
        ]
        if len(law.branches) > 1:
            worth = ", ".join(f"{np.exp(law.log_r(b)):.3g} at {b:g}x" for b in law.branches[1:])
            lines.append(f"compute of other lengths counts as r C: r = {worth}")
    hardware = sorted({row.hardware for row in results if row.hardware})
    if hardware:
        lines.append(f"runs on {', '.join(hardware)}")
    compute = [row.flops for row in results]
    span = max(compute) / min(compute) if compute else 0
    if span < ENOUGH:
        lines.append(f"only {span:.1f}x of compute: too little to say how the effect scales")
    return lines


def _draw_bowls(found: BestSizes) -> Figure:
    """Draw the bowls, with the tokens per parameter of their optima."""
    best = ", ".join(
        f"{bowl.tokens_per_param_opt:.3g} at {format_flops(bowl.flops)}"
        for bowl in found.bowls
        if bowl.tokens_per_param_opt is not None
    )
    note = f"best tokens per parameter: {best}" if best else ""
    return isoflop_figure(found.bowls, note, loss="validation, bits per byte")


def publish_figure(path: Path, figure: Figure) -> str:
    """Publish a figure as `path`.svg and `path`.png, and return the SVG."""
    svg = svg_text(figure)
    figure.set_layout_engine("none")  # laid out already: a sixth of the time
    image = png_bytes(figure)
    publish_text(path.with_name(path.name + ".svg"), svg)
    publish(path.with_name(path.name + ".png"), lambda stream: stream.write(image))
    return svg
