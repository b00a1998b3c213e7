"""`ladderlm report`: write a page and check it; the page is tested beside its module."""

import json


def test_a_run_becomes_a_page_that_verifies(ladderlm, run, tmp_path):
    out = tmp_path / "page"
    said = ladderlm("report", run, "--out", out)
    assert said.code == 0, said.err
    assert said.out == f"{out}/index.html\n"
    assert "<html" in (out / "index.html").read_text()
    assert ladderlm("report", run, "--out", out, "--x", "hours").code == 2
    assert ladderlm("report", run, "--out", out, "--x", "tokens").code == 0
    said = ladderlm("report", "verify", out)
    assert said.code == 0
    assert "every number and file holds" in said.out


def test_a_changed_number_is_found_with_code_one(ladderlm, run, tmp_path):
    """P05: in the page, and in what the page was made from."""
    out = tmp_path / "page"
    assert ladderlm("report", run, "--out", out).code == 0
    page = (out / "index.html").read_text()
    (out / "index.html").write_text(page.replace("</html>", " </html>"))
    said = ladderlm("report", "verify", out)
    assert said.code == 1
    assert "index.html was changed" in said.out
    (out / "index.html").write_text(page)
    summary = json.loads((run / "summary.json").read_text())
    summary["evals"]["val"]["last"]["bits_per_byte"] /= 2
    (run / "summary.json").write_text(json.dumps(summary))
    said = ladderlm("report", "verify", out)
    assert said.code == 1
    assert "bits_per_byte" in said.out


def test_what_is_no_run_study_or_report_is_named(ladderlm, run, tmp_path):
    assert "no RUN or STUDY is named" in ladderlm("report").err
    for words in (["report"], ["report", "verify"]):
        for place in (tmp_path / "nowhere", tmp_path):
            said = ladderlm(*words, place)
            assert said.code == 2
            assert str(place) in said.err
    assert "not a report" in ladderlm("report", "verify", run).err
    (tmp_path / "config.json").write_text("{}")
    said = ladderlm("report", tmp_path, "--out", tmp_path / "page")
    assert said.code in (0, 2)
    assert "bug" not in said.err


def test_a_run_that_has_not_come_far_still_makes_a_page(ladderlm, run, tmp_path):
    """P03: torn and missing files."""
    (run / "metrics.jsonl").write_text('{"kind": "train", "st')
    (run / "samples.jsonl").unlink()
    said = ladderlm("report", run, "--out", tmp_path / "page")
    assert said.code == 0, said.err
    assert "nan" not in (tmp_path / "page/report.md").read_text().lower().split()
