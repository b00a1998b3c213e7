"""Reports on runs that are broken, torn, or hardly there: a clear word instead of a crash."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from builders import make_row
from ladderlm.errors import ConfigError, LadderError
from ladderlm.files import read_json
from ladderlm.report.drawing import draw_figures
from ladderlm.report.facts import gather
from ladderlm.report.figures.curves import loss_curves
from ladderlm.report.figures.scaling import ScalingPlot, scaling_figure
from ladderlm.report.figures.style import label_of, svg_text
from ladderlm.report.render import render_html, render_markdown, write_report
from ladderlm.report.run_facts import LoggedLoss
from ladderlm.report.studies import StudyFacts
from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.fit import fit_points
from ladderlm.scaling.isoflop import Bowl
from ladderlm.scaling.joint import fit_law
from ladderlm.study.analysis import analyse
from ladderlm.study.baseline import BestSizes
from ladderlm.study.fits import AxisFit, Fits
from ladderlm.study.options import LadderOptions
from ladderlm.study.records import NoAnswer
from ladderlm.study.results import Results
from ladderlm.study.search import SearchResult, Trial
from ladderlm.study.spec import Arm
from ladderlm.study.study import Study
from ladderlm.study.tuning import Tuning, fit_bracket, fit_rate_law
from reference.hostile import ALL
from reference.ladders import make_ladder, points_from

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg"/>'


def render(facts):
    """Render both documents, the figures left empty."""
    axes = ("flops", "tokens", "device_seconds")
    names = ["curves", *(f"{study.about.name}-{x}" for study in facts.studies for x in axes)]
    return render_html(facts, dict.fromkeys(names, EMPTY)) + render_markdown(facts, names)


def texts_of(figure):
    """Return every text of a figure."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def draw_again(folder):
    """Draw a study by its runs as they are now."""
    facts = StudyFacts.read(folder, folder.parent)
    return draw_figures(facts.about.arms, facts.about.ladder, facts.results, facts.fits)


def run_folders(sources):
    return [sources.pool / str(run) for run in ids_of(sources)]


def ids_of(sources):
    return sorted(path.name for path in sources.pool.iterdir() if path.name[0] != ".")


def edit_summary(folder, edit):
    summary = read_json(folder / "summary.json")
    edit(summary)
    (folder / "summary.json").write_text(json.dumps(summary))


def spoil(value):
    def edit(summary):
        for which in ("best", "last"):
            for key in ("loss", "bits_per_byte"):
                summary["evals"]["val"][which][key] = value

    return edit


@pytest.mark.parametrize("value", [None, math.inf])
def test_runs_without_a_finite_loss_are_passed_over(copy_sources, value, tmp_path):
    """P03: the best of the others is the best; the page says what was left out."""
    sources = copy_sources()
    best = gather([], [sources.study], tmp_path).best
    edit_summary(sources.pool / best, spoil(value))
    facts = gather([], [sources.study], tmp_path)
    assert facts.best != best
    assert best in facts.studies[0].fits.excluded
    assert f"Excluded: {best}: " in render(facts)


@pytest.mark.parametrize("value", [None, math.nan])
def test_without_any_finite_loss_there_is_no_report(copy_sources, value, tmp_path):
    """P03: an error that says what to do, and no half-written folder."""
    sources = copy_sources()
    for folder in run_folders(sources):
        edit_summary(folder, spoil(value))
    with pytest.raises(ConfigError, match="needs a finished run with a finite loss") as caught:
        write_report(tmp_path / "report", [], [sources.study])
    assert caught.value.fix
    assert not (tmp_path / "report/index.html").exists()


def test_without_any_finished_run_there_is_no_report(copy_sources, tmp_path):
    sources = copy_sources()
    for folder in run_folders(sources):
        edit_summary(folder, lambda summary: summary.update(status="running"))
    with pytest.raises(ConfigError, match="needs a finished run with a finite loss, found none"):
        gather([], [sources.study], tmp_path)


def test_a_study_without_runs_has_no_report(copy_sources, tmp_path):
    sources = copy_sources()
    shutil.rmtree(sources.pool)
    with pytest.raises(ConfigError, match="needs a finished run with a finite loss, found none"):
        gather([], [sources.study], tmp_path)


def test_one_finished_run_of_a_study_is_reported_without_a_fit(copy_sources, tmp_path):
    """P03: one point only."""
    sources = copy_sources()
    for folder in run_folders(sources)[1:]:
        shutil.rmtree(folder)
    facts = gather([], [sources.study], tmp_path)
    assert "not enough points" in facts.studies[0].fits.problem
    page = render(facts)
    assert "not enough points" in page
    assert "No conclusion is drawn" in page
    figures = draw_again(sources.study)
    for figure in figures.values():
        assert "not enough points for a fit" in texts_of(figure)
    svg_text(figures["device_seconds"])


def test_a_study_with_no_run_that_counts_is_drawn_as_such(copy_sources, tmp_path):
    """P03: no point at all, in every axis."""
    sources = copy_sources()
    study = Study.open(sources.study)
    rows = [replace(row, excluded_because="no") for row in study.results()]
    none = Results(tuple(rows))
    spec = study.spec
    for figure in draw_figures(spec.arms, spec.ladder, none, analyse(spec, none)).values():
        assert "not enough points for a fit" in texts_of(figure)
        svg_text(figure)


def test_a_failed_run_shows_its_reason(copy_sources, tmp_path):
    sources = copy_sources()
    folder = run_folders(sources)[0]
    edit_summary(folder, lambda s: s.update(status="failed", reason="step 3: loss nan"))
    assert "failed: step 3: loss nan" in render(gather([], [sources.study], tmp_path))


METRICS = {
    "missing": None,
    "empty": b"",
    "torn": b'{"kind": "train", "step": 1, "n_tokens": 256, "lo',
    "binary": b"\x00\xff\xfe\n\n[]\n3\n",
    "rows without values": b'{"kind": "train"}\n{"kind": "eval"}\n',
    "nulls": b'{"kind": "train", "step": null, "n_tokens": null, "loss": null}\n',
    "NaN": b'{"kind": "train", "step": 1, "n_tokens": NaN, "loss": NaN}\n'
    b'{"kind": "train", "step": 2, "n_tokens": 5, "loss": Infinity}\n',
    "huge": b'{"kind": "train", "step": 1, "n_tokens": 1e308, "loss": 1e308}\n',
}


@pytest.mark.parametrize("content", METRICS.values(), ids=METRICS)
def test_metrics_that_were_torn_or_lost_give_an_empty_curve(sources, tmp_path, content):
    """P03: the figure says that there are not enough points."""
    run = shutil.copytree(
        sources.run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "evals")
    )
    (run / "metrics.jsonl").unlink()
    if content is not None:
        (run / "metrics.jsonl").write_bytes(content)
    facts = gather([run], [], tmp_path)
    figure = loss_curves(facts.curves.train, facts.curves.validation, {})
    assert texts_of(figure).count("not enough points") == 2
    svg_text(figure)
    render(facts)


def test_curves_leave_out_what_is_not_a_number():
    rows = [
        LoggedLoss(n_tokens=i, loss=v) for i, v in enumerate((3.0, None, "x", math.nan, 1e308, 2.0))
    ]
    figure = loss_curves(rows, [], {"gzip -9, whole": 2.0})
    assert figure.axes[0].lines[0].get_ydata().tolist() == [3.0, 2.0]


def test_lost_samples_and_data_are_said(sources, tmp_path):
    """P03: what is gone is named; the rest of the page stands."""
    run = shutil.copytree(
        sources.run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "evals")
    )
    (run / "samples.jsonl").unlink()
    config = read_json(run / "config.json")
    config["data"]["path"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(config))
    facts = gather([run], [], tmp_path)
    assert facts.data.problem
    page = render(facts)
    assert "The data of the best run is no longer available" in page
    assert str(tmp_path) not in page
    assert "No unconditional samples were requested" in page


@pytest.mark.parametrize("name", ["summary.json", "config.json", "environment.json"])
def test_a_file_that_is_no_json_is_named(sources, tmp_path, name):
    run = shutil.copytree(
        sources.run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "evals")
    )
    (run / name).write_text('{"status": "fini')
    with pytest.raises(LadderError, match=name.replace(".", r"\.")):
        gather([run], [], tmp_path)


def test_two_studies_of_one_name_are_refused(sources, copy_sources, tmp_path):
    """Their figures would be files of one name, and one would stand under both."""
    with pytest.raises(ConfigError, match="must have different names, got tiny, tiny"):
        gather([], [sources.study, copy_sources().study], tmp_path)


def test_the_name_of_a_study_is_the_one_that_was_checked(copy_sources, tmp_path):
    """D20: the name of a study is part of file names."""
    sources = copy_sources()
    study = read_json(sources.study / "study.json")
    (sources.study / "study.json").write_text(json.dumps(study | {"name": "../../evil"}))
    assert gather([], [sources.study], tmp_path).studies[0].about.name == "tiny"


FIGURES = {
    "nothing": points_from([]),
    "one point": points_from([("base", 0, 0, 1e12, 2.0)]),
    "zero variance": points_from([("base", i, 0, 10.0**i, 2.0) for i in range(4)]),
    "one x": points_from([("base", 0, i, 1e12, 2.0) for i in range(4)]),
}


@pytest.mark.parametrize("points", FIGURES.values(), ids=FIGURES)
def test_a_figure_of_hardly_anything_is_drawn(points):
    """P03."""
    figure = scaling_figure(ScalingPlot(points=points, arms=["base", "new"], held_out=[3]))
    assert "not enough points for a fit" in texts_of(figure)
    assert len(figure.axes) == 1  # no empty frames for m and residuals
    svg_text(figure)


def test_a_figure_names_arms_that_cannot_be_drawn():
    """P01: controls and missing glyphs are spelt out, long names cut, underscores not hidden."""
    points = make_ladder(1.1)
    points.arm[:] = np.where(points.arm == "base", "_x", "日本")
    figure = scaling_figure(
        ScalingPlot(points=points, arms=["_x", "日本"], law=fit_law(points), caption=[ALL])
    )
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == [" _x", "\\u{65e5}\\u{672c}"]
    svg_text(figure)
    assert label_of(ALL).startswith("<script>alert(1)</script>")
    assert len(label_of(ALL)) == 60
    assert "\n" not in label_of("a\nb")


def test_whatever_a_study_has_found_is_drawn():
    """Rates, sizes and a search of a study whose ladder has not run yet."""
    bracket = fit_bracket(0, 1e9, [0.01, 0.02, 0.04], [2.1, 2.0, math.inf])
    trial = Trial(1, {"optim.beta2": 0.9}, 2.0, "r")
    bowl = Bowl(1e9, 2, "fewer than 4 sizes", (1e3, 2e3), (2e5, 1e5), (3.0, 2.9))
    fit = fit_points({"flops": [1.0, 2, 3, 4], "loss": [4.0, 3, 2.5, 2.2]}, FitOptions())
    axes = {x: AxisFit(None, None, "none", {}) for x in ("flops", "device_seconds", "tokens")}
    found = Fits(
        study="s",
        tuning=(Tuning("b", brackets=(bracket,)),),
        isoflop=BestSizes(fit, (bowl,)),
        search=SearchResult((trial,), trial, ()),
        axes=axes,
    )
    arms, ladder = (Arm("a"), Arm("b")), LadderOptions(flops=(1e9, 1e10))
    assert set(draw_figures(arms, ladder, Results(), found)) == {
        *axes,
        "rates",
        "isoflop",
        "search",
    }
    nothing = Fits(study="s", isoflop=NoAnswer("why"), axes=axes)
    assert set(draw_figures(arms, ladder, Results(), nothing)) == set(axes)


def test_a_search_is_shown_with_the_losses_that_its_runs_have_now():
    trial, lost = Trial(1, {}, 2.0, "r"), Trial(1, {}, 2.0, "gone")
    again = SearchResult((trial, lost), trial, ()).reread({"r": 1.5})
    assert [tried.bits_per_byte for tried in again.rows] == [1.5, None]
    assert again.best.bits_per_byte == 1.5


def test_rates_are_shown_by_the_losses_that_the_brackets_have_now():
    rates = [0.01, 0.02, 0.04]
    brackets = (fit_bracket(0, 1e9, rates, [2.1, 2.0, math.inf]),)
    tuning = Tuning("new", True, None, brackets, fit_rate_law(brackets))
    same = [
        make_row(arm="new", role="bracket", learning_rate=rate, bits_per_byte=bits)
        for rate, bits in zip(rates, (2.1, 2.0, None), strict=True)
    ]
    assert tuning.reread(Results(tuple(same)).rates_of("new")) == tuning == tuning.reread({})
    other = replace(same[0], bits_per_byte=1.9), replace(same[0], arm="base", bits_per_byte=9.0)
    found = tuning.reread(Results(other).rates_of("new"))
    assert found.brackets[0].losses == (1.9, 2.0, math.inf)
    assert found.law.rate(1e9) == 0.01
