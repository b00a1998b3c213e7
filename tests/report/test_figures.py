"""Figures of studies: what is drawn is what was found."""

import pytest

from ladderlm.report.figures.forecast import forecast_figure
from ladderlm.report.figures.isoflop import isoflop_figure
from ladderlm.report.figures.scaling import scaling_figure
from ladderlm.report.figures.style import svg_text
from ladderlm.scaling.compare import compare_arms
from ladderlm.scaling.joint import fit_law
from reference.ladders import BUDGETS, make_ladder


def test_the_scaling_figure_shows_every_run_and_the_trend_of_m():
    points = make_ladder(1.2, own_sd=0.002)
    law, compared = fit_law(points, "base"), compare_arms(points, "base", "new")
    figure = scaling_figure(points, ["base", "new"], law, [compared], {4}, "flops", ["20 runs"])
    top, middle, bottom = figure.axes
    drawn = sum(len(c.get_offsets()) for c in top.collections if c.get_label() != "_band")
    assert drawn >= len(points)
    assert "in sd of a seed" in bottom.get_title(loc="left")
    trend = middle.lines[-1]
    first, last = trend.get_ydata()[[0, -1]]
    slope = compared.trend.value * 4.605170186  # two decades
    assert last / first == pytest.approx(2.718281828**slope, rel=1e-6)
    assert list(trend.get_xdata()[[0, -1]]) == pytest.approx([BUDGETS[0], BUDGETS[-1]])
    assert figure.get_supxlabel() == "20 runs"
    svg_text(figure)


SCORE = {
    "arm": "new",
    "rung": 4,
    "actual": 2.0,
    "relative_error": 0.005,
    "interval_90": [1.98, 2.04],
    "interval_95": [1.97, 2.05],
}


def test_the_forecast_figure_shows_intervals_as_percent_of_what_was_measured():
    figure = forecast_figure([SCORE], ["base", "new"], "written then")
    (axes,) = figure.axes
    wide, narrow, point = axes.lines[1:]
    assert list(wide.get_xdata()) == pytest.approx([-1.5, 2.5])
    assert list(narrow.get_xdata()) == pytest.approx([-1.0, 2.0])
    assert list(point.get_xdata()) == pytest.approx([0.5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["new, rung 5"]
    svg_text(forecast_figure([], ["base"]))


def test_a_bowl_without_an_optimum_is_drawn_without_a_line():
    bowl = {"flops": 1e18, "params": [1e7, 2e7], "tokens": [2e9, 1e9], "losses": [3.0, 2.9]}
    figure = isoflop_figure([bowl])
    assert [len(axes.lines) for axes in figure.axes] == [0, 0]
    svg_text(figure)
