"""Runs, data, studies and evaluations made by 87e1e34 (see make.py) are what they were.

Only commands and files are used here, so that these tests outlive every change of the code between.
"""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import content_of
from ladderlm.cli.main import main

MADE = Path(__file__).parent / "made"
STUDIES = ("study", "lengths")
# The same machine gives the same bytes. Other CPUs add float32 numbers in another order, which some
# updates carry to about 1e-6 of a loss (see the golden run), and their linear algebra differs in
# the last bits of least squares.
LOSS_TOLERANCE, FIT_TOLERANCE = 1e-5, 1e-9


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the fixtures and stand in the copy: all places in them are relative to it."""
    folder = Path(shutil.copytree(MADE, tmp_path / "kept"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def ladderlm(kept: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must succeed; return what it printed."""

    def call(*words: object) -> str:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert code == 0, out + err
        return out

    return call


def compare(found: Any, kept: Any, tolerance: float, place: str = "") -> None:
    """Compare two values of JSON: keys in their order, texts and kinds equal, numbers nearly so."""
    if isinstance(kept, float) and isinstance(found, float):
        assert found == pytest.approx(kept, rel=tolerance, abs=1e-12, nan_ok=True), place
        return
    assert type(found) is type(kept), place
    if isinstance(kept, dict):
        assert list(found) == list(kept), place
        for key in kept:
            compare(found[key], kept[key], tolerance, f"{place}.{key}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), place
        for i, pair in enumerate(zip(found, kept, strict=True)):
            compare(*pair, tolerance, f"{place}[{i}]")
    else:
        assert found == kept, place


def read_table(text: str) -> list[list[str | float]]:
    """Read a table of CSV, numbers as numbers."""

    def read_cell(cell: str) -> str | float:
        try:
            return float(cell)
        except ValueError:
            return cell

    return [[read_cell(cell) for cell in row] for row in csv.reader(io.StringIO(text))]


def compare_files(found: Path, kept: Path) -> None:
    """Compare files byte by byte, and by their values where bytes differ."""
    if found.read_bytes() == kept.read_bytes():
        return
    one, other = (path.read_text(encoding="utf-8") for path in (found, kept))
    if found.suffix == ".csv":
        compare(read_table(one), read_table(other), FIT_TOLERANCE, found.name)
    else:
        compare(json.loads(one), json.loads(other), FIT_TOLERANCE, found.name)


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics, without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "timing"} for row in rows]


def compare_runs(found: Path, kept: Path) -> None:
    """Compare all that two runs measured, and the texts that they wrote."""
    # Weights and losses have names by their hashes, which a last bit changes.
    values = [json.loads((run / "summary.json").read_text()) for run in (found, kept)]
    assert values[0]["run_id"] == values[1]["run_id"]
    scores = [
        {
            which: {key: row[key] for key in row if key not in ("key", "losses")}
            for which, row in value["evals"]["val"].items()
        }
        for value in values
    ]
    compare(scores[0], scores[1], LOSS_TOLERANCE)
    compare(rows_of(found), rows_of(kept), LOSS_TOLERANCE)
    assert (found / "samples.jsonl").read_text() == (kept / "samples.jsonl").read_text()


def test_data_and_runs_hold_against_their_hashes(ladderlm):
    for name in ("data", "run"):
        ladderlm("verify", name)


def test_the_corpus_is_prepared_to_the_same_shards(ladderlm, kept):
    ladderlm("prepare", "corpus", "--tokenizer", "vocab", "--out", "again")
    again, data = content_of(kept / "again"), content_of(kept / "data")
    shards = [name for name in data if name.endswith((".bin", ".npy"))]
    assert shards
    assert {name: again[name] for name in shards} == {name: data[name] for name in shards}


def test_a_finished_run_is_not_run_again(ladderlm, kept):
    before = content_of(kept / "run")
    ladderlm("train", "--config", "run.toml", "--out", "run")
    assert content_of(kept / "run") == before


def test_a_stopped_run_ends_as_the_run_that_was_not_stopped(ladderlm, kept):
    assert rows_of(kept / "stopped")[-1]["step"] == 8
    ladderlm("train", "--config", "stopped/config.json", "--resume", "must")
    compare_runs(kept / "stopped", kept / "run")


def test_a_killed_run_ends_as_the_run_that_was_not_killed(ladderlm, kept):
    """It has its checkpoint of step 6, rows of later steps, and a torn last one."""
    killed = Path(shutil.copytree(kept / "run", kept / "killed"))
    shutil.rmtree(killed / "checkpoints/step-00000012")
    shutil.rmtree(killed / "evals")
    (killed / "summary.json").unlink()
    raw = (killed / "metrics.jsonl").read_bytes()
    (killed / "metrics.jsonl").write_bytes(raw[: len(raw) * 3 // 4])
    ladderlm("train", "--config", "run/config.json", "--out", "killed", "--resume", "must")
    compare_runs(killed, kept / "run")


def test_a_run_from_the_start_has_the_same_id_and_losses(ladderlm, kept):
    ladderlm("train", "--config", "run.toml", "--out", "anew")
    compare_runs(kept / "anew", kept / "run")


def read_losses(path: Path) -> dict[str, Any]:
    """Return the arrays of a stored evaluation."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return dict(arrays)


EVALUATIONS = {
    "0b0aa71b-val-ctx32-str32-first5-7883ec23.json": ("--split", "val", "--max-documents", "5"),
    "0b0aa71b-val-ctx16-str8-first12-21cb10fc.json": (
        *("--context", "16", "--stride", "8"),
        *("--checkpoint", "average"),
    ),
    "0b0aa71b-val-ctx32-str32-first12.json": ("--checkpoint", "last"),
    "0b0aa71b-val-ctx32-str32-first12-average.json": ("--checkpoint", "average"),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_stored_evaluation_of_a_run_is_found_and_nothing_is_scored(name, ladderlm, kept):
    before = content_of(kept / "run")
    summary = json.loads(ladderlm("eval", "run", *EVALUATIONS[name], "--json"))
    assert summary["reused"]
    stored = json.loads((kept / "run/evals" / name).read_text())
    for key in stored:
        if key != "losses":
            compare(summary[key], stored[key], FIT_TOLERANCE, key)
    assert name in ladderlm("eval", "run", *EVALUATIONS[name])
    assert content_of(kept / "run") == before


def test_a_run_is_scored_again_to_the_same_losses_under_the_same_name(ladderlm, kept):
    name = "0b0aa71b-val-ctx16-str8-first12-21cb10fc.json"
    before = sorted(content_of(kept / "run"))
    summary = json.loads(ladderlm("eval", "run", *EVALUATIONS[name], "--fresh", "--json"))
    assert not summary["reused"]
    assert sorted(content_of(kept / "run")) == before
    old, new = (read_losses(folder / "run/evals" / name) for folder in (MADE, kept))
    assert list(old) == list(new)
    for key, values in old.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(new[key], values, rtol=LOSS_TOLERANCE)
        else:
            np.testing.assert_array_equal(new[key], values)


def test_a_stored_evaluation_of_a_foreign_model_is_found(ladderlm, kept):
    before = content_of(kept / "evals")
    words = ("eval", "foreign", "--data", "data", "--max-documents", "5", "--out", "evals")
    assert json.loads(ladderlm(*words, "--json"))["reused"]
    (name,) = (path.name for path in (kept / "evals").glob("*.json"))
    assert name in ladderlm(*words)
    assert content_of(kept / "evals") == before


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_plans_the_runs_that_it_has_made(study, ladderlm, kept):
    words = ("study", "plan", f"{study}.toml", "--no-probe", "--json")
    runs = json.loads(ladderlm(*words, "--pool", f"{study}/runs"))["runs"]
    with open(kept / study / "results.csv", encoding="utf-8", newline="") as table:
        ids = [row["run_id"] for row in csv.DictReader(table)]
    assert [row["run_id"] for row in runs] == ids
    assert set(ids) == {path.name for path in (kept / study / "runs").iterdir()}
    assert all(row["finished"] for row in runs)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_gives_the_same_table_fits_and_forecast(study, ladderlm, kept):
    (kept / study / "results.csv").unlink()
    (kept / study / "fits.json").unlink()
    ladderlm("study", "fit", f"{study}.toml", "--out", study)
    for name in ("results.csv", "forecast.json", "fits.json"):
        compare_files(kept / study / name, MADE / study / name)


def test_a_study_merges_to_the_same_table_fits_and_forecast(ladderlm, kept):
    """Here the forecast, which is kept once it is written, is made anew."""
    ladderlm("study", "merge", "lengths", "--out", "merged", "--pool", "merged/pool")
    assert content_of(kept / "merged/pool").keys() == content_of(kept / "lengths/runs").keys()
    compare_files(kept / "merged/results.csv", MADE / "lengths/results.csv")
    merged, old = (
        json.loads((folder / "fits.json").read_text(encoding="utf-8"))
        for folder in (kept / "merged", MADE / "lengths")
    )
    for value in (merged, old):
        del value["forecast"]["timing"], value["forecast"]["hash"]  # a last bit changes the hash
    compare(merged, old, FIT_TOLERANCE)


def test_runs_and_studies_are_reported_and_the_report_holds(ladderlm, kept):
    ladderlm("report", "run", "lengths", "--out", "page")
    ladderlm("report", "verify", "page")
    page = (kept / "page/index.html").read_text(encoding="utf-8")
    assert "e8bf53d19264" in page
    assert "kept-lengths" in page
