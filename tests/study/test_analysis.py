"""From the table to forecast and fits: the forecast sees only lower rungs, fits say what is out."""

import json
import math
import shutil
from dataclasses import replace

import pytest

from ladderlm.scaling.joint import fit_law
from ladderlm.study import analysis
from ladderlm.study.analysis import analyse
from ladderlm.study.forecast import read_forecast, write_forecast
from ladderlm.study.results import Results
from ladderlm.study.tuning import Tuning, fit_bracket


def falling(done, noise=0.0):
    """The study's rows with losses on a known law: gelu needs a fifth less compute."""
    rows = []
    for row in done.rows:
        gain = 1.25 if row.arm == "gelu" else 1.0
        bits = 2.0 * (gain * row.flops / 1e8) ** -0.1
        rows.append(row if row.arm == "broken" else replace(row, bits_per_byte=bits))
    return Results(tuple(rows))


def changed(rows, when=lambda row: True, **changes):
    """The table with some rows changed."""
    return Results(tuple(replace(row, **changes) if when(row) else row for row in rows))


def on_top(row):
    return row.rung == 2


def timed(rows):
    """The table with device time in proportion to compute."""
    return Results(tuple(replace(row, device_seconds=row.flops / 1e9) for row in rows))


def test_the_forecast_is_made_from_the_lower_rungs_alone(done, tmp_path):
    rows = falling(done)
    forecast = write_forecast(tmp_path, done.spec, rows)
    assert read_forecast(tmp_path) == forecast
    assert forecast.law.n_used == 4
    law = fit_law(rows.where(lambda row: row.rung < 2).points())
    assert forecast.law.theta == law.theta
    assert [(p.arm, p.rung) for p in forecast.predictions] == [("gelu", 2), ("swiglu", 2)]
    for prediction in forecast.predictions:
        low, high = prediction.interval_95
        assert low <= prediction.bits_per_byte <= high
    true = {row.arm: row.bits_per_byte for row in rows if row.rung == 2}
    for prediction in forecast.predictions:
        assert prediction.bits_per_byte == pytest.approx(true[prediction.arm])


@pytest.mark.parametrize("held", [9.0, None, math.nan])
def test_the_held_out_rung_is_never_looked_at(done, tmp_path, held):
    """Whatever stands on the top rung, the same is written, but for the time."""
    rows = falling(done)
    write_forecast(tmp_path / "a", done.spec, rows)
    other = changed(rows, on_top, bits_per_byte=held)
    write_forecast(tmp_path / "b", done.spec, other)
    first, second = (json.loads((tmp_path / n / "forecast.json").read_text()) for n in "ab")
    assert first.pop("timing").keys() == second.pop("timing").keys() == {"written_at"}
    assert first == second


def with_asides(rows):
    """Add a finished run of every other role beside each row of the ladder."""
    others = [
        replace(
            row,
            role=role,
            run_id=f"{role}-{row.run_id}",
            excluded_because=f"a {role} run, not compared",
        )
        for role in ("bracket", "noise", "isoflop", "search")
        for row in rows
        if row.arm != "broken"
    ]
    return Results((*rows, *others))


def test_runs_that_are_not_compared_change_neither_forecast_nor_what_is_left_out(done, tmp_path):
    rows = falling(done)
    alone = write_forecast(tmp_path / "a", done.spec, rows)
    beside = write_forecast(tmp_path / "b", done.spec, with_asides(rows))
    assert replace(beside, written_at="") == replace(alone, written_at="")
    fits = analyse(done.spec, with_asides(rows))
    assert set(fits.excluded) == {r.run_id for r in done.rows if r.arm == "broken"}
    assert fits.card == analyse(done.spec, rows).card


def test_a_forecast_is_scored_by_the_means_of_the_runs_that_count(done, tmp_path):
    rows = falling(done)
    forecast = write_forecast(tmp_path, done.spec, rows)
    scores = forecast.score(rows)
    assert [(s.arm, s.rung, s.n_runs) for s in scores] == [
        (arm, 2, len({r.seed for r in rows if r.rung == 2 and r.arm == arm}))
        for arm in ("gelu", "swiglu")
    ]
    for score in scores:
        assert score.relative_error == pytest.approx(0.0, abs=1e-4)
    worse = [replace(r, bits_per_byte=2 * r.bits_per_byte) for r in rows.compared if on_top(r)]
    for score in forecast.score(Results(tuple(worse))):
        assert score.relative_error == pytest.approx(-0.5, abs=1e-3)
        assert not score.inside_95


def test_a_forecast_once_written_stays_until_the_lower_rungs_change(done, tmp_path):
    rows = falling(done)
    write_forecast(tmp_path, done.spec, rows)
    file = tmp_path / "forecast.json"
    before = (file.stat().st_mtime_ns, file.stat().st_ino, file.read_bytes())
    write_forecast(tmp_path, done.spec, rows)
    assert (file.stat().st_mtime_ns, file.stat().st_ino, file.read_bytes()) == before
    other = changed(rows, lambda row: row.rung == 0, bits_per_byte=1.9)
    again = write_forecast(tmp_path, done.spec, other)
    assert again.made_from != json.loads(before[2])["made_from"]


def test_without_lower_rungs_there_is_no_forecast(done, tmp_path):
    """P03: one rung is no line."""
    rows = changed(done.rows, lambda row: row.rung == 0, excluded_because="no")
    assert write_forecast(tmp_path, done.spec, rows) is None
    assert not (tmp_path / "forecast.json").exists()


def test_an_arm_that_failed_on_every_rung_does_not_stop_the_others(done):
    """S02: the fits name it, and judge the other variant."""
    fits = analyse(done.spec, falling(done))
    gelu, broken = fits.variants
    assert gelu.comparison.pooled.value == pytest.approx(1.25)
    assert "no run of 'broken' shares rung and seed" in broken.problem
    assert set(fits.excluded) == {r.run_id for r in done.rows if r.arm == "broken"}
    assert fits.card.excluded == fits.excluded
    assert fits.card.n_used == 6


def test_an_arm_that_failed_on_the_lower_rungs_alone_is_not_forecast(done, tmp_path):
    """S02: its top rung stands without a law; nothing crashes and nothing passes."""
    top = {"excluded_because": "", "bits_per_byte": 1.5, "device_seconds": 1.0}
    rows = changed(falling(done), lambda row: row.arm == "broken" and on_top(row), **top)
    forecast = write_forecast(tmp_path, done.spec, rows)
    assert {p.arm for p in forecast.predictions} == {"gelu", "swiglu"}
    assert analyse(done.spec, rows).holdout is None


def test_the_verdict_knows_that_rates_were_not_tuned(done):
    verdict = analyse(done.spec, falling(done)).judged[0].verdict
    assert verdict.word == verdict.text == "INCONCLUSIVE"
    assert verdict.reason.startswith("the learning rates of the arms were not tuned")
    assert verdict.would_be.startswith("RECOMMEND")


def test_the_verdict_says_what_is_wrong_with_the_rates(done):
    """A check whose best point is an end of its grid has failed: no arm's best rate lies there."""
    check = fit_bracket(2, 1e9, [0.01, 0.02, 0.04], [2.1, 2.0, 1.9])
    tunings = [
        Tuning("swiglu", done=True),
        Tuning("gelu", True, "the power law of the rates failed its check", (check,)),
    ]
    said = analyse(done.spec, falling(done), tunings).judged[0].verdict
    assert said.word == "INCONCLUSIVE"
    assert said.reason.startswith("arm gelu: the power law of the rates failed its check; ")
    half = [tunings[0], replace(tunings[1], done=False)]
    said = analyse(done.spec, falling(done), half).judged[0].verdict
    assert said.reason.startswith("the learning rates of the arms were not tuned; ")


def test_documents_drawn_again_give_an_interval_about_the_pooled_multiplier(done):
    """Real runs of two arms on the same texts; without their folders the reason is said."""
    rows = done.rows.where(lambda row: row.arm != "broken")
    judged = analyse(done.spec, rows, pool=done.pool).judged[0]
    documents, pooled = judged.documents, judged.comparison.pooled
    assert documents.n_documents >= 5
    assert documents.low_95 < pooled.value < documents.high_95
    missing = analyse(done.spec, rows, pool=done.folder).judged[0]
    assert "no losses of single documents" in missing.documents.problem


def test_documents_are_those_of_the_weights_that_the_table_takes(done, tmp_path):
    """Where a run has an average, its losses count; the last weights' own are not even there."""
    pool = shutil.copytree(done.pool, tmp_path / "pool", ignore=lambda *a: ["checkpoints"])
    rows = done.rows.where(lambda row: row.arm != "broken")
    for row in rows:
        file = pool / row.run_id / "summary.json"
        summary = json.loads(file.read_text())
        scores = summary["evals"]["val"]
        scores["average"] = dict(scores["last"])
        scores["last"]["losses"] = {"file": "not-there.npz"}
        file.write_text(json.dumps(summary))
    averaged = analyse(done.spec, rows, pool=pool).judged[0].documents
    assert averaged == analyse(done.spec, rows, pool=done.pool).judged[0].documents


def test_subsets_have_their_multipliers_and_are_corrected_for_being_many(done):
    """A subset that gains much, one that gains nothing: p is adjusted over both."""
    rows = []
    for row in falling(done):
        gain = {"code": 2.0, "prose": 1.0}
        flops, is_new = row.flops / 1e8, row.arm == "gelu"
        scores = {name: 2.0 * ((m if is_new else 1.0) * flops) ** -0.1 for name, m in gain.items()}
        rows.append(replace(row, subsets=scores))
    subsets = analyse(done.spec, Results(tuple(rows))).judged[0].subsets
    assert subsets["code"].value == pytest.approx(2.0, rel=1e-2)
    assert subsets["prose"].value == pytest.approx(1.0, rel=1e-2)
    assert subsets["code"].p_holm >= subsets["code"].p_value


def test_every_axis_has_its_comparison(done):
    fits = analyse(done.spec, timed(falling(done)))
    judged = fits.judged[0]
    for axis in ("device_seconds", "tokens"):
        assert getattr(judged, f"at_equal_{axis}").variant == "gelu"
        assert fits.axes[axis].comparisons["gelu"] == getattr(judged, f"at_equal_{axis}")
    assert fits.axes["flops"].comparisons["gelu"] == judged.comparison
    assert [fit.law.n_used for fit in fits.axes.values()] == [6, 6, 6]


def test_times_that_do_not_compare_take_no_part_in_the_multiplier_at_equal_time(done, monkeypatch):
    rows = timed(falling(done))
    slow = [replace(row, device_seconds=99 * row.device_seconds) for row in rows if on_top(row)]
    lower = rows.where(lambda row: row.rung < 2)
    mixed = Results((*lower, *slow))
    times = {row.run_id: "shared the machine" for row in slow}
    monkeypatch.setattr(analysis, "incomparable_times", lambda rows, pool: times)
    found = analyse(done.spec, mixed, pool=done.pool)
    assert found.incomparable_times == times
    at_equal = found.judged[0].at_equal_device_seconds
    alone = analyse(done.spec, lower).judged[0].at_equal_device_seconds
    assert at_equal.pooled == alone.pooled
    assert len(found.judged[0].comparison.rungs) == 3
    times |= {row.run_id: "shared the machine" for row in rows}
    none = analyse(done.spec, mixed, pool=done.pool).judged[0].at_equal_device_seconds
    assert none.problem.endswith(f"left out: {len(times)} runs shared the machine")


def test_an_axis_that_was_not_measured_is_a_problem_of_that_axis_alone(done):
    """P03: zero device time has no logarithm."""
    rows = changed(falling(done), device_seconds=0.0)
    judged = analyse(done.spec, rows).judged[0]
    assert "not positive finite" in judged.at_equal_device_seconds.problem
    assert judged.comparison.pooled.value == pytest.approx(1.25)


def test_too_few_runs_are_a_problem_in_words(done):
    """P03: nothing finished, one run, one rung."""
    for keep in (0, 1):
        none = changed(done.rows, excluded_because="not run yet")
        fits = analyse(done.spec, Results((*done.rows.rows[:keep], *none.rows[keep:])))
        assert "not enough points" in fits.problem
        assert fits.variants == ()
