"""`ladderlm study`: plan and status of a small study; running is tested beside its modules."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from builders import TINY_LADDER, tiny_study, write_study
from ladderlm.cli import study_tables
from ladderlm.cli.study import print_fits
from ladderlm.study.documents import DocumentInterval
from ladderlm.study.fits import Fits, VariantFit
from ladderlm.study.records import NoAnswer
from ladderlm.study.verdict import Verdict
from reference.ladders import make_comparison, make_estimate


@pytest.fixture
def study(tiny_data, tmp_path):
    """The file of a study that has not begun."""
    return write_study(tmp_path / "tiny.toml", tiny_study(tiny_data))


def test_the_plan_lists_every_run_and_starts_none(ladderlm, study, tmp_path):
    out = tmp_path / "out"
    said = ladderlm("study", "plan", study, "--out", out, "--no-probe", "--json")
    assert said.code == 0, said.err
    plan = said.json
    assert len(plan["runs"]) == 2 * len(TINY_LADDER)
    assert {row["arm"] for row in plan["runs"]} == {"swiglu", "gelu"}
    assert not any(row["finished"] for row in plan["runs"])
    assert len({row["run_id"] for row in plan["runs"]}) == len(plan["runs"])
    assert plan["flops"] == pytest.approx(2 * sum(TINY_LADDER), rel=0.2)
    assert 1 < plan["power"]["detects_80"] < plan["power"]["detects_95"]
    shown = ladderlm("study", "plan", study, "--out", out, "--no-probe")
    assert all(row["run_id"] in shown.out + shown.err for row in plan["runs"])
    assert f"a gain of {plan['power']['detects_80'] - 1:.1%} of compute with 80 %" in shown.err
    assert not out.exists()


def test_the_status_of_a_study_that_has_not_begun(ladderlm, study, tmp_path):
    said = ladderlm("study", "status", study, "--out", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    runs = said.json["runs"]
    assert {row["status"] for row in runs} == {"not started"}
    assert said.json["timing"] == {"remaining_seconds": None}
    text = ladderlm("study", "status", study, "--out", tmp_path / "out").out
    assert text.count("not started") == len(runs)
    assert f"0 of {len(runs)} runs are finished" in text


@pytest.mark.parametrize("verb", ["fit", "report"])
def test_without_runs_there_is_nothing_to_judge(verb, ladderlm, study, tmp_path):
    """S02, P03: a reason, not a line through nothing, and no folder that looks like a study."""
    said = ladderlm("study", verb, study, "--out", tmp_path / "out")
    assert said.code == 2
    assert "no run of" in said.err
    assert f"there is nothing to {verb}" in said.err
    assert not (tmp_path / "out").exists()


def test_fewer_than_one_core_is_refused_by_every_verb(ladderlm, study):
    for verb in ("plan", "run"):
        said = ladderlm("study", verb, study, "--threads", "0")
        assert said.code == 2
        assert "--threads must be at least 1, got 0" in said.err


def test_verbs_and_files_that_do_not_exist_are_named(ladderlm, tmp_path):
    assert "plan, run, status, fit, report" in ladderlm("study", "--help").out.replace(",", ", ")
    said = ladderlm("study", "plam", tmp_path / "a.toml")
    assert said.code == 2
    assert "unknown verb 'plam'" in said.err
    said = ladderlm("study", "plan", tmp_path / "nowhere.toml")
    assert said.code == 2
    assert f"{tmp_path}/nowhere.toml" in said.err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nam": "x"}, "'nam'"),
        ({"ladder": None}, "ladder"),
        ({"arm": None}, "arm"),
        ({"arm": [{"name": "a"}, {"name": "b", "set": {"model.mpl": "gelu"}}]}, "model.mlp"),
        ({"arm": [{"name": "a"}, {"name": "b", "set": {"model.mlp": "relu"}}]}, "relu"),
        ({"base": {"preset": "lama"}}, "did you mean llama?"),
        ({"ladder": {"flops": [1e9, 1e8]}}, "rise"),
        ({"ladder": {"flops": [1e9], "seedz": [1]}}, "seeds"),
        ({"ladder": {"flops": "1e9"}}, "flops"),
    ],
)
def test_slips_in_a_study_file_are_named(changes, says, ladderlm, tiny_data, tmp_path):
    file = write_study(tmp_path / "tiny.toml", tiny_study(tiny_data, **changes))
    said = ladderlm("study", "plan", file)
    assert said.code == 2, said.err
    assert says in said.err


def fits_of(comparison, documents=None):
    """What a study of one variant comes to."""
    verdict = Verdict("INCONCLUSIVE", "why", "INCONCLUSIVE", False, None, None)
    none = NoAnswer("not asked for")
    judged = VariantFit("new", comparison, verdict, none, none, documents=documents)
    return Fits(study="s", variants=(judged,))


def test_a_multiplier_beyond_the_ladder_is_printed_as_a_bound(capsys):
    comparison = make_comparison(make_estimate(1.2, 0.1))
    rungs = (replace(comparison.rungs[0], censored="> 1.78"), *comparison.rungs[1:])
    print_fits(fits_of(replace(comparison, rungs=rungs)))
    said = capsys.readouterr().out
    assert said.count("m = > 1.78 (95 % ") == 1
    assert said.count("m = 1.000 (95 % ") == len(rungs) - 1
    assert "learning rates" not in said
    assert "other documents" not in said


def test_errors_by_rates_and_by_documents_are_printed_where_they_are_known(capsys):
    comparison = replace(make_comparison(make_estimate(1.2, 0.1)), rate_error=0.0421)
    print_fits(fits_of(comparison, DocumentInterval(57, 500, 1.0312, 1.0688, 0.01)))
    said = capsys.readouterr().out
    assert "learning rates: 0.042 is their part" in said
    assert "other documents: pooled m 95 % 1.031 to 1.069 (57 " in said


def test_the_live_table_shows_what_the_loop_has_seen(monkeypatch):
    """One look at the runs for each refresh, whatever the screen asks for."""
    looks = [SimpleNamespace(over=over) for over in (False, False, True)]
    seen = []

    @contextmanager
    def show(look):
        monkeypatch.setattr("time.sleep", lambda seconds: seen.append(look()))
        yield

    monkeypatch.setattr(study_tables, "live_table", show)
    left = iter(looks)
    assert study_tables.follow(lambda: next(left)) is looks[-1]
    assert seen == looks[:2]
    assert next(left, None) is None
