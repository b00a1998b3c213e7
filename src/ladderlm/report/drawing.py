"""Which figures a study has, and what stands under them.

Owns `draw_study`: from the facts of a study to its figures. Each figure's look is in `figures/`.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.errors import DataError
from ladderlm.files import publish, publish_text
from ladderlm.report.figures.forecast import forecast_figure
from ladderlm.report.figures.isoflop import isoflop_figure
from ladderlm.report.figures.rates import rates_figure
from ladderlm.report.figures.scaling import scaling_figure
from ladderlm.report.figures.search import search_figure
from ladderlm.report.figures.style import png_bytes, svg_text
from ladderlm.report.sections import AXES
from ladderlm.scaling.compare import Comparison, compare_arms
from ladderlm.scaling.joint import LadderLaw, fit_card, fit_law
from ladderlm.scaling.points import Points
from ladderlm.study.forecast import score_forecast
from ladderlm.study.results import Row, points_of
from ladderlm.study.tuning import Tuning, rate_shift
from ladderlm.units import format_flops

__all__ = ["draw_study", "publish_figure"]

ENOUGH = 9.9  # times the smallest compute; a decade, met to a step
Facts = dict[str, Any]


def draw_study(study: Facts) -> dict[str, Any]:
    """Draw whatever a study has; give figures by name.

    Args:
        study: of the facts.

    Returns:
        One figure for each of `AXES`; forecast, rates, isoflop and search where there are such.
    """
    names = [arm["name"] for arm in study["arms"]]
    fits = study["fits"]
    tunings = [Tuning.from_json(tuning) for tuning in fits.get("tuning") or []]
    figures = {x: _draw_scaling(study, names, tunings, x) for x in AXES.values()}
    scores = score_forecast(study.get("forecast"), study["rows"])
    if scores:
        written = study["forecast"]["timing"]["written_at"]
        figures["forecast"] = forecast_figure(scores, names, f"written {written}")
    if any(tuning.brackets for tuning in tunings):
        figures["rates"] = rates_figure(tunings, names, study["ladder"]["flops"])
    if (fits.get("isoflop") or {}).get("bowls"):
        figures["isoflop"] = _draw_bowls(fits["isoflop"])
    if fits.get("search"):
        figures["search"] = search_figure(fits["search"])
    return figures


def _draw_scaling(study: Facts, names: list[str], tunings: list[Tuning], x: str) -> Any:
    n_rungs = len(study["ladder"]["flops"])
    held = set(range(n_rungs - study["ladder"]["holdout"], n_rungs))
    rows = [row for row in study["rows"] if not row["excluded_because"]]
    times = study["fits"].get("incomparable_times", {}) if x == "device_seconds" else {}
    marked = np.array([row["run_id"] in times for row in rows], dtype=bool)
    points = points_of(rows, x=x)
    used = points.where(~marked)
    comparisons: list[Comparison] = []
    law = None
    with contextlib.suppress(DataError):  # the figure says that there are not enough points
        law = fit_law(used, names[0])
    for name in names[1:]:
        shift = rate_shift(tunings, (names[0], name), study["ladder"]["flops"])
        with contextlib.suppress(DataError):
            comparisons.append(compare_arms(used, names[0], name, shift))
    caption = _caption(study, rows, used, law)
    if marked.any():
        caption.append(
            f"crossed: {marked.sum()} runs that shared the machine or ran on other hardware; "
            "their times are not fitted"
        )
    return scaling_figure(points, names, law, comparisons, held, x, caption, marked)


def _caption(study: Facts, rows: list[Row], used: Points, law: LadderLaw | None) -> list[str]:
    """Say what a scaling figure rests on; `used` are the points that the law was fitted to."""
    flops = sum(float(row["flops_spent"]) for row in rows)
    seeds = len({row["seed"] for row in rows})
    lines = [
        f"{len(rows)} runs: {len(study['arms'])} arms, {len({row['rung'] for row in rows})} rungs, "
        f"{seeds} seed{'s' * (seeds != 1)}; {format_flops(flops)} in all; bands and bars: 95 %"
    ]
    if len(lengths := sorted({float(row["branch"]) for row in rows})) > 1:
        told = ", ".join(f"{length:g}" for length in lengths)
        lines.append(f"every size trained {told} times as long as its rung")
    if law is not None:
        card = fit_card(law, used, {})
        lines.append(f"{card['form']}; {law.shape}")
        lines.append(f"{card['loss']}, weights {card['weights']}")
        lines.append(
            f"{card['n_used']} runs fitted, in {card['n_cells']} means; "
            f"{card['degrees_of_freedom']} degrees of freedom"
        )
        if len(law.branches) > 1:
            worth = ", ".join(f"{np.exp(law.log_r(b)):.3g} at {b:g}x" for b in law.branches[1:])
            lines.append(f"compute of other lengths counts as r C: r = {worth}")
    hardware = sorted({str(row["hardware"]) for row in rows if row.get("hardware")})
    if hardware:
        lines.append(f"runs on {', '.join(hardware)}")
    compute = [float(row["flops"]) for row in rows]
    span = max(compute) / min(compute) if compute else 0
    if span < ENOUGH:
        lines.append(f"only {span:.1f}x of compute: too little to say how the effect scales")
    return lines


def _draw_bowls(found: Facts) -> Any:
    """Draw the bowls, with what the optima come to."""
    known = [bowl for bowl in found["bowls"] if not bowl["problem"]]
    best = ", ".join(
        f"{bowl['tokens_per_param_opt']:.3g} at {format_flops(bowl['flops'])}" for bowl in known
    )
    note = f"best tokens per parameter: {best}" if best else ""
    return isoflop_figure(found["bowls"], note, loss="validation, bits per byte")


def publish_figure(path: Path, figure: Any) -> str:
    """Publish a figure as `path`.svg and `path`.png; give the SVG."""
    svg = svg_text(figure)
    figure.set_layout_engine("none")  # laid out already: a sixth of the time
    image = png_bytes(figure)
    publish_text(path.with_name(path.name + ".svg"), svg)
    publish(path.with_name(path.name + ".png"), lambda stream: stream.write(image))
    return svg
