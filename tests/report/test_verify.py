"""`report verify`: what was changed afterwards, in the report or in its sources, is found."""

import json
import re
import shutil

import pytest

from ladderlm.errors import DataError
from ladderlm.files import read_json
from ladderlm.report.verify import compare_values, verify_report


@pytest.fixture
def home(report, tmp_path):
    """A copy of study and report that may be changed."""
    skip = shutil.ignore_patterns("checkpoints", ".requests")
    return shutil.copytree(report.parent, tmp_path / "home", ignore=skip)


def best_of(home):
    return read_json(home / "report/facts.json")["best"]


def edit_json(path, *keys, value):
    data = read_json(path)
    table = data
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    path.write_text(json.dumps(data))


def test_a_fresh_report_holds(home):
    assert verify_report(home / "report") == []


def test_a_report_may_move_with_its_sources(home, tmp_path):
    home.rename(tmp_path / "elsewhere")
    assert verify_report(tmp_path / "elsewhere/report") == []


SUMMARY = {
    "bits per byte of the best": ("evals", "val", "best", "bits_per_byte"),
    "bits per byte of the last": ("evals", "val", "last", "bits_per_byte"),
    "loss of the last": ("evals", "val", "last", "loss"),
    "a subset": ("evals", "val", "best", "subsets", "Code", "bits_per_byte"),
    "flops": ("flops",),
    "6ND": ("flops_6nd",),
    "parameters": ("n_params", "matrices"),
    "positions": ("n_positions",),
    "seconds": ("timing", "seconds"),
    "device seconds": ("timing", "device_seconds"),
    "restarts": ("restarts",),
    "status": ("status",),
}


@pytest.mark.parametrize("keys", SUMMARY.values(), ids=SUMMARY)
def test_an_edited_value_of_a_summary_is_found(home, keys):
    """P05: a figure that the logs do not hold."""
    path = home / "study/runs" / best_of(home) / "summary.json"
    value = read_json(path)
    for key in keys:
        value = value[key]
    edit_json(path, *keys, value="failed" if isinstance(value, str) else value * 1.001 + 1e-6)
    problems = verify_report(home / "report")
    assert problems
    assert any("the report says" in problem for problem in problems)


@pytest.mark.parametrize("value", [None, "a lot", [], True])
@pytest.mark.parametrize("keys", [SUMMARY["bits per byte of the best"], ("evals",), ("timing",)])
def test_values_of_any_kind_are_a_problem_and_no_crash(home, keys, value):
    """P03, P05: a summary that was spoilt, not only changed."""
    edit_json(home / "study/runs" / best_of(home) / "summary.json", *keys, value=value)
    assert verify_report(home / "report")


def test_one_edited_validation_of_the_best_run_is_found(home):
    """P05: one point of the curve."""
    path = home / "study/runs" / best_of(home) / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    row = next(r for r in rows if r["kind"] == "eval" and r["step"] > 0)
    row["bits_per_byte"] -= 0.01
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    problems = verify_report(home / "report")
    assert len(problems) == 1
    assert re.match(r"facts\.curves\.validation\[\d+\]\.bits_per_byte: ", problems[0])


def test_a_missing_logged_step_is_found(home):
    path = home / "study/runs" / best_of(home) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[4:]))
    assert verify_report(home / "report")


def test_an_edited_sample_is_found(home):
    path = home / "study/runs" / best_of(home) / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["text"] = "To be, or not to be"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert any("facts.samples" in problem for problem in verify_report(home / "report"))


def test_a_run_of_any_arm_is_watched_not_only_the_best(home):
    facts = read_json(home / "report/facts.json")
    other = next(run["run_id"] for run in facts["runs"] if run["run_id"] != facts["best"])
    path = home / "study/runs" / other / "summary.json"
    edit_json(path, "evals", "val", "last", "bits_per_byte", value=0.5)
    assert any("fits" in problem for problem in verify_report(home / "report"))


@pytest.mark.parametrize("name", ["index.html", "report.md", "facts.json", "figures/curves.svg"])
def test_an_edited_file_of_the_report_is_named(home, name):
    path = home / "report" / name
    text = path.read_text(encoding="utf-8")
    digit = re.search(r"[1-8](?=\D*\Z)", text)
    path.write_text(text[: digit.start()] + "9" + text[digit.end() :], encoding="utf-8")
    assert f"{name} was changed after it was written" in verify_report(home / "report")


def test_a_page_that_was_changed_together_with_its_digest_is_found(home):
    """P05: the page is rendered again, so a new digest does not hide an edit."""
    from ladderlm.files import sha256_file

    page = home / "report/index.html"
    page.write_text(page.read_text("utf-8").replace("INCONCLUSIVE", "RECOMMEND"), "utf-8")
    edit_json(home / "report/manifest.json", "files", "index.html", value=sha256_file(page))
    assert verify_report(home / "report") == ["index.html is not what the facts render to"]


@pytest.mark.parametrize("name", ["index.html", "figures/curves.png", "figures/tiny-flops.svg"])
def test_a_missing_file_of_the_report_is_named(home, name):
    (home / "report" / name).unlink()
    assert f"{name} is missing" in verify_report(home / "report")


def test_a_missing_run_is_found(home):
    """P05: the best run or any other."""
    facts = read_json(home / "report/facts.json")
    for run in facts["runs"][:2]:
        shutil.move(home / "study/runs" / run["run_id"], home / run["run_id"])
        problems = verify_report(home / "report")
        assert any(run["run_id"] in p or "missing" in p for p in problems), problems
        shutil.move(home / run["run_id"], home / "study/runs" / run["run_id"])
    assert verify_report(home / "report") == []


def test_a_missing_study_is_found(home):
    shutil.rmtree(home / "study")
    assert any("cannot be read again" in p for p in verify_report(home / "report"))


@pytest.mark.parametrize("column", ["flops", "arm", "seed", "rung"])
def test_an_edited_table_is_found(home, column):
    path = home / "study/results.csv"
    header, *rows = path.read_text().splitlines()
    place = header.split(",").index(column)
    cells = rows[0].split(",")
    cells[place] = {"flops": "1.5e8", "arm": "gelu", "seed": "7", "rung": "1"}[column]
    path.write_text("\n".join([header, ",".join(cells), *rows[1:]]) + "\n")
    assert verify_report(home / "report")


def test_an_edited_forecast_is_found(home):
    edit_json(home / "study/forecast.json", "law", "slope", value=-0.5)
    assert any("forecast" in problem for problem in verify_report(home / "report"))


def test_a_folder_that_is_no_report_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a report"):
        verify_report(tmp_path)


def test_numbers_may_differ_in_the_last_bits_only():
    assert compare_values({"a": [1.0, {"b": 2.0}]}, {"a": [1.0 + 1e-15, {"b": 2.0}]}) == []
    assert compare_values({"a": 1.0}, {"a": 1.0 + 1e-6}) == [
        "facts.a: the report says 1.0, the sources say 1.000001"
    ]
    assert len(compare_values({"a": 1, "b": [1, 2]}, {"b": [1]})) == 2
    assert compare_values({"a": None}, {"a": 0.0})
