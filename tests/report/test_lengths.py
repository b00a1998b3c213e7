"""Figures and tables of a study whose sizes were trained for several lengths."""

import numpy as np
from matplotlib.colors import to_rgb

from builders import make_row
from ladderlm.report.drawing import draw_figures
from ladderlm.report.figures.forecast import forecast_figure
from ladderlm.report.figures.scaling import ScalingPlot, scaling_figure
from ladderlm.report.figures.style import colour_of, paler
from ladderlm.scaling.joint import fit_law
from ladderlm.scaling.points import Points
from ladderlm.study.analysis import analyse
from ladderlm.study.forecast import ForecastScore
from ladderlm.study.ladder import name_rung
from ladderlm.study.options import LadderOptions
from ladderlm.study.results import Results
from ladderlm.study.spec import Arm, StudySpec
from ladderlm.training.run_config import RunConfig

LENGTHS = (0.5, 1.0, 2.0)


def ladder():
    """One arm on three rungs, two seeds each; other lengths are worth a tenth less compute."""
    rung, branch, seed = (a.ravel() for a in np.indices((3, 3, 2)))
    x = 1e13 * 10 ** (rung / 2) * np.array(LENGTHS)[branch]
    loss = 1.7 + 4 * (x / 1e13 * np.array([0.9, 1, 0.9])[branch]) ** -0.16 + 1e-3 * seed
    return Points(np.array(["base"] * len(x)), rung, seed, x, loss, np.array(LENGTHS)[branch])


def test_every_length_has_its_entry_its_line_and_a_shade_of_the_arm_s_colour():
    points = ladder()
    law = fit_law(points, "base")
    figure = scaling_figure(ScalingPlot(points=points, arms=["base"], law=law, held_out=[2]))
    top = figure.axes[0]
    told = [text.get_text() for text in top.get_legend().get_texts()]
    assert told == ["base, 0.5x as long", "base", "base, 2x as long"]
    own = colour_of(0)
    assert [line.get_color() for line in top.lines] == [paler(own), own, paler(own)]
    for line, length in zip(top.lines, LENGTHS, strict=True):
        x, y = line.get_data()
        assert np.allclose(y, law.predict("base", x, length))
    drawn = sum(len(dots.get_offsets()) for dots in top.collections if len(dots.get_sizes()))
    assert drawn == len(points)


def test_a_paler_colour_lies_half_way_to_white():
    assert np.allclose(to_rgb(paler("#000000")), 0.5, atol=0.01)
    assert paler("#ffffff") == "#ffffff"


def test_a_rung_is_named_with_the_length_that_is_not_its_own():
    assert [name_rung(1, length) for length in LENGTHS] == [
        "2 (0.5x as long)",
        "2",
        "2 (2x as long)",
    ]


def test_forecasts_of_every_length_have_their_line():
    ends = {"interval_90": (0.9, 1.1), "interval_95": (0.8, 1.2)}
    known = {"arm": "base", "rung": 2, "flops": 1e13, "bits_per_byte": 1.01, "n_runs": 1, **ends}
    known |= {"actual": 1.0, "relative_error": 0.01, "inside_90": True, "inside_95": True}
    scores = [ForecastScore(**known, branch=length) for length in LENGTHS]
    axes = forecast_figure(scores, ["base"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"base, rung {name_rung(2, length)}" for length in LENGTHS
    ]


def test_the_caption_says_which_lengths_there_are_and_what_they_count_as():
    points = ladder()
    columns = ("arm", "rung", "seed", "branch")
    rows = [
        make_row(
            **{name: getattr(points, name)[i].item() for name in columns},
            run_id=str(i),
            flops=points.x[i],
            flops_spent=points.x[i],
            tokens=points.x[i],
            device_seconds=1.0,
            bits_per_byte=points.loss[i],
            hardware="a",
        )
        for i in range(len(points))
    ]
    rungs = LadderOptions(flops=(1e13, 3e13, 1e14), branches=LENGTHS)
    arms = (Arm("base"),)
    spec = StudySpec("t", "", "", RunConfig(), rungs, arms, None, False)
    results = Results(tuple(rows))
    drawn = draw_figures(arms, rungs, results, analyse(spec, results))
    said = drawn["flops"].get_supxlabel()
    assert "every size trained 0.5, 1, 2 times as long as its rung" in said
    assert "r = 0.9 at 0.5x, 0.9 at 2x" in said
