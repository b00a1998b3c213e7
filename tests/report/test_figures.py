"""Figures of studies: what is drawn is what was found."""

import math

import numpy as np
import pytest

from ladderlm.report.figures.forecast import forecast_figure
from ladderlm.report.figures.isoflop import isoflop_figure
from ladderlm.report.figures.rates import rates_figure
from ladderlm.report.figures.scaling import ScalingPlot, scaling_figure
from ladderlm.report.figures.search import search_figure
from ladderlm.report.figures.style import ARM_COLOURS, svg_text
from ladderlm.scaling.compare import compare_arms
from ladderlm.scaling.isoflop import Bowl
from ladderlm.scaling.joint import fit_law
from ladderlm.study.forecast import ForecastScore
from ladderlm.study.search import SearchResult, Trial
from ladderlm.study.tuning import Tuning, fit_bracket, fit_rate_law, grid
from reference.ladders import BUDGETS, make_ladder


def test_the_scaling_figure_shows_every_run_and_the_trend_of_m():
    points = make_ladder(1.2, own_sd=0.002)
    law, compared = fit_law(points, "base"), compare_arms(points, "base", "new")
    names = ["base", "new"]
    figure = scaling_figure(
        ScalingPlot(
            points=points,
            arms=names,
            law=law,
            comparisons=[compared],
            held_out=[4],
            caption=["20 runs"],
        )
    )
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


SCORE = ForecastScore(
    arm="new",
    rung=4,
    flops=1e12,
    bits_per_byte=2.01,
    branch=1.0,
    interval_90=(1.98, 2.04),
    interval_95=(1.97, 2.05),
    n_runs=2,
    actual=2.0,
    relative_error=0.005,
    inside_90=True,
    inside_95=True,
)


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
    bowl = Bowl(1e18, 2, "fewer than 4 sizes", (1e7, 2e7), (2e9, 1e9), (3.0, 2.9))
    figure = isoflop_figure([bowl])
    assert [len(axes.lines) for axes in figure.axes] == [0, 0]
    svg_text(figure)


def test_runs_whose_times_do_not_compare_are_crossed_and_leave_no_residual():
    points = make_ladder(1.2, own_sd=0.002)
    marked = (points.rung == 1) & (points.arm == "new")
    law = fit_law(points.where(~marked), "base")
    names = ["base", "new"]
    plot = ScalingPlot(points=points, arms=names, law=law, x="device_seconds", marked=marked)
    figure = scaling_figure(plot)
    top, _, bottom = figure.axes
    crosses = [c for c in top.collections if len(c.get_offsets()) == 2]
    (cross,) = [c for c in crosses if len(c.get_paths()[0].vertices) == 4]  # an x has four ends
    assert cross.get_offsets().data == pytest.approx(
        np.stack([points.x[marked] / 3600, points.loss[marked]], axis=1)
    )
    assert sum(len(c.get_offsets()) for c in bottom.collections) == len(points) - 2


def test_an_interval_without_end_does_not_flatten_the_others():
    compared = compare_arms(make_ladder(1.2, own_sd=0.0005), "base", "new")
    shift = np.diag([0.0] * 4 + [1.0])
    wide = compare_arms(make_ladder(1.2, own_sd=0.0005), "base", "new", shift)
    assert wide.rungs[-1].estimate.high_95 > 1000 > 2 > compared.rungs[-1].estimate.high_95
    points, names = make_ladder(1.2), ["base", "new"]
    figure = scaling_figure(ScalingPlot(points=points, arms=names, comparisons=[wide]))
    assert figure.axes[1].get_ylim()[1] < 5


def tuned(arm, best, losses=None):
    """An arm with brackets on two rungs, best at `best` and half of it, an edge on the third."""
    brackets = []
    for rung in range(3):
        at, rates = best / 2**rung, grid(0.01, 5 if rung < 2 else 3)
        found = [2 * math.exp(0.02 * math.log(rate / at) ** 2) for rate in rates]
        brackets.append(fit_bracket(rung, BUDGETS[rung], rates, losses or found))
        losses = None
    return Tuning(arm, True, "failed its check", tuple(brackets), fit_rate_law(brackets))


def lines_with(axes, marker):
    return [line for line in axes.lines if line.get_marker() == marker]


def test_the_figure_of_rates_shows_brackets_the_law_and_what_failed():
    arms = ["base", "other", "new"]
    pair = [tuned("base", 0.012), tuned("new", 0.015, [2.2, 2.1, 2.0, math.inf, math.inf])]
    figure = rates_figure(pair, arms, BUDGETS)
    *brackets, law = figure.axes
    assert len(brackets) == 6
    (star,) = lines_with(brackets[0], "*")
    assert star.get_xdata()[0] == pytest.approx(0.012)
    used = [line for line in brackets[1].lines if line.get_linestyle() == "--"]
    assert used[0].get_xdata()[0] == pair[0].law.rate(BUDGETS[1])
    assert [len(lines_with(axes, "^")) for axes in brackets[3:4]] == [2]  # both that diverged
    assert not lines_with(brackets[3], "*")
    edges = [axes for axes in brackets for text in axes.texts if "edge" in text.get_text()]
    assert edges == [brackets[2], brackets[5]]
    line = next(line for line in law.lines if len(line.get_xdata()) == 60)
    assert line.get_color() == ARM_COLOURS[0]
    slope = math.log(line.get_ydata()[-1] / line.get_ydata()[0]) / math.log(100)
    assert slope == pytest.approx(pair[0].law.exponent)
    assert [line.get_xdata()[0] for line in lines_with(law, "x")] == [BUDGETS[2]] * 2
    assert ARM_COLOURS[2] in {line.get_color() for line in law.lines}
    assert "new: failed its check" in figure.get_supxlabel()
    svg_text(figure)


def test_the_figure_of_a_search_shows_every_run_the_best_and_the_edge():
    def row(rung, decay, mlp, loss):
        options = {"optim.weight_decay": decay, "model.mlp": mlp}
        return Trial(rung, options, loss, "r")

    rows = [row(1, 0.01, "gelu", 3.0), row(1, 0.1, "gelu", 3.3), row(1, 1.0, "swiglu", None)]
    rows += [row(2, 0.01, "gelu", 2.0), row(2, 0.1, "gelu", 2.02)]
    figure = search_figure(SearchResult(tuple(rows), rows[3], ("optim.weight_decay",)))
    decay, mlp = figure.axes
    drawn = np.concatenate([c.get_offsets().data for c in decay.collections])
    assert drawn == pytest.approx(np.array([[0.01, 0], [0.1, 10], [0.01, 0], [0.1, 1]]))
    assert [line.get_xdata()[0] for line in lines_with(decay, "*")] == [0.01]
    assert [line.get_xdata()[0] for line in lines_with(decay, "^")] == [1.0]
    assert "0.01 is the last of its values" in decay.get_xlabel()
    assert decay.get_xscale() == "log"
    assert [label.get_text() for label in mlp.get_xticklabels()] == ["gelu", "swiglu"]
    assert not mlp.get_xlabel()
    svg_text(figure)
