"""The figures of a study and the lines under them.

Owns `draw_figures`, from a study's table and fits to its figures. How each figure looks is decided
in `figures/`. Fits nothing.
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
from ladderlm.report.sections import AXES, number_of
from ladderlm.scaling.compare import Comparison
from ladderlm.study.baseline import BestSizes
from ladderlm.study.fits import AxisFit, Fits
from ladderlm.study.options import LadderOptions
from ladderlm.study.results import Results
from ladderlm.study.spec import Arm
from ladderlm.units import format_flops

__all__ = ["draw_figures", "publish_figure"]

ENOUGH = 9.9  # largest over smallest compute: a decade, up to the rounding of steps


def draw_figures(
    arms: Sequence[Arm], ladder: LadderOptions, results: Results, fits: Fits
) -> dict[str, Figure]:
    """Return the figures of a study by name.

    There is one for each of `AXES`, and forecast, rates, isoflop and search if the study has them.
    """
    names = [arm.name for arm in arms]
    figures = {x: _draw_scaling(names, ladder, results, fits, x) for x in AXES.values()}
    if fits.forecast is not None and fits.forecast_score:
        note = f"written {fits.forecast.written_at}"
        figures["forecast"] = forecast_figure(fits.forecast_score, names, note)
    if any(tuning.brackets for tuning in fits.tuning):
        figures["rates"] = rates_figure(fits.tuning, names, ladder.flops)
    if isinstance(fits.isoflop, BestSizes) and fits.isoflop.bowls:
        best = ", ".join(
            f"{bowl.tokens_per_param_opt:.3g} at {format_flops(bowl.flops)}"
            for bowl in fits.isoflop.bowls
            if bowl.tokens_per_param_opt is not None
        )
        note = f"best tokens per parameter: {best}" if best else ""
        figures["isoflop"] = isoflop_figure(fits.isoflop.bowls, note, "validation, bits per byte")
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
        crossed = number_of(int(marked.sum()), "run")
        caption.append(f"crossed: {crossed} on a shared machine or other hardware, not fitted")
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
    """Return the lines under a scaling figure: runs, law, hardware, range of compute."""
    counts = [
        number_of(n_arms, "arm"),
        number_of(len({row.rung for row in results}), "rung"),
        number_of(len({row.seed for row in results}), "seed"),
    ]
    spent = format_flops(sum(row.flops_spent for row in results))
    lines = [
        f"{number_of(len(results), 'run')}: {', '.join(counts)}; {spent} in total; bands and bars: "
        "95 %"
    ]
    if len(lengths := sorted({row.branch for row in results})) > 1:
        shown = ", ".join(f"{length:g}" for length in lengths)
        lines.append(f"every size trained {shown} times as long as its rung")
    law, card = axis.law, axis.card
    if law is not None and card is not None:
        lines += [
            f"{card.form}; {law.shape}",
            f"{card.loss}, weights {card.weights}",
            f"fitted to {number_of(card.n_used, 'run')} in {number_of(card.n_cells, 'mean')}; "
            f"{number_of(card.degrees_of_freedom, 'degree')} of freedom",
        ]
        if len(law.branches) > 1:
            ratios = ", ".join(f"{np.exp(law.log_r(b)):.3g} at {b:g}x" for b in law.branches[1:])
            lines.append(f"compute of other lengths counts as r C: r = {ratios}")
    hardware = sorted({row.hardware for row in results if row.hardware})
    if hardware:
        lines.append(f"runs on {', '.join(hardware)}")
    compute = [row.flops for row in results]
    span = max(compute) / min(compute) if compute else 0
    if span < ENOUGH:
        lines.append(f"only {span:.1f}x of compute: too little to show how the effect scales")
    return lines


def publish_figure(path: Path, figure: Figure) -> str:
    """Publish a figure as `path`.svg and `path`.png, and return the SVG."""
    svg = svg_text(figure)
    figure.set_layout_engine("none")  # it is laid out already; again would take six times as long
    image = png_bytes(figure)
    publish_text(path.with_name(path.name + ".svg"), svg)
    publish(path.with_name(path.name + ".png"), lambda stream: stream.write(image))
    return svg
