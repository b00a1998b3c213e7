"""The table of a study: one row a run, nothing dropped in silence, readable as it was written."""

import csv
import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from builders import make_row
from ladderlm.errors import ConfigError, DataError
from ladderlm.study.analysis import analyse
from ladderlm.study.results import (
    COLUMNS,
    TIMING_COLUMNS,
    Results,
    Row,
    collect_results,
    reread_results,
)


def summary_of(done, row):
    return json.loads((done.pool / row.run_id / "summary.json").read_text())


def good(done):
    return [row for row in done.rows if row.arm != "broken"]


def test_every_planned_run_has_a_row_with_its_place_and_its_numbers(done):
    assert [row.run_id for row in done.rows] == [run.run_id for run in done.plan.runs]
    for row, run in zip(done.rows, done.plan.runs, strict=True):
        assert (row.study, row.arm, row.seed) == ("tiny", run.arm, run.seed)
        assert (row.rung, row.params) == (run.rung.index, run.rung.n_matmul)
        assert row.config_hash.startswith(row.run_id)
        assert row.flops == run.rung.flops
    for row in good(done):
        summary = summary_of(done, row)
        last = summary["evals"]["val"]["last"]
        assert (row.status, row.excluded_because) == ("finished", "")
        assert (row.loss, row.bits_per_byte) == (last["loss"], last["bits_per_byte"])
        assert row.flops == pytest.approx(summary["flops"], rel=1e-12)
        assert row.tokens == summary["n_positions"]
        assert row.params == row.n_params_matrices + row.n_params_head
        assert row.subsets["Code"] == last["subsets"]["Code"]["bits_per_byte"]
        assert set(row.subsets) == {"Code", "Prose"}


def test_a_diverged_run_keeps_its_row_with_the_reason(done):
    """S02: which run and why; it takes no part in the fit."""
    broken = [row for row in done.rows if row.arm == "broken"]
    assert len(broken) == 3
    for row in broken:
        assert row.status == "failed"
        assert "nan" in row.excluded_because
        assert "step" in row.excluded_because
        assert row.loss is None
    assert set(done.rows.points().arm) == {"swiglu", "gelu"}


def test_a_table_comes_back_as_it_was_written(done, tmp_path):
    done.rows.write(tmp_path / "results.csv")
    again = Results.read(tmp_path / "results.csv")
    assert len(again) == len(done.rows)
    for old, new in zip(done.rows, again, strict=True):
        assert new == old  # floats in full precision
    again.write(tmp_path / "twice.csv")
    assert (tmp_path / "twice.csv").read_bytes() == (tmp_path / "results.csv").read_bytes()
    with open(tmp_path / "results.csv", newline="") as stream:
        header = next(csv.reader(stream))
    assert header == [*COLUMNS, "bpb[Code]", "bpb[Prose]"]
    assert set(TIMING_COLUMNS) <= set(COLUMNS)


def test_ids_of_digits_alone_stay_text(tmp_path):
    """A run id such as 000123456789 or 12345e678901 is a name, not a number."""
    ids = ["000123456789", "123456789012", "12345e678901", "1e5000000000", "0123456789ab"]
    rows = [make_row(run_id=i, config_hash=i, arm="1") for i in ids]
    Results(tuple(rows)).write(tmp_path / "results.csv")
    again = Results.read(tmp_path / "results.csv")
    assert [row.run_id for row in again] == ids
    assert [row.config_hash for row in again] == ids
    assert {row.arm for row in again} == {"1"}


HOSTILE = [
    "a,b",
    'quo"te',
    "line\nend",
    "=cmd()",
    "nan",
    "inf",
    "1e5",
    "<script>",
    "\u202eevil",
    " ",
]


def test_names_of_arms_and_reasons_survive_whatever_they_are(tmp_path):
    """P01: commas, quotes, line ends, formulas, numbers in words."""
    rows = [make_row(arm=text, excluded_because=text) for text in HOSTILE]
    Results(tuple(rows)).write(tmp_path / "results.csv")
    again = Results.read(tmp_path / "results.csv")
    assert [row.arm for row in again] == HOSTILE
    assert [row.excluded_because for row in again] == HOSTILE


def test_rereading_gives_what_the_run_folders_say(done, tmp_path):
    done.rows.write(tmp_path / "results.csv")
    again = reread_results(Results.read(tmp_path / "results.csv"), done.pool)
    for old, new in zip(done.rows, again, strict=True):
        assert new == old


def test_an_edited_table_is_corrected_by_rereading(done, tmp_path):
    """P05: the runs are the truth, the table is a copy."""
    changes = {"bits_per_byte": 0.01, "loss": 0.01, "subsets": {"Code": 0.5}}
    rows = [replace(row, **changes) for row in done.rows]
    Results(tuple(rows)).write(tmp_path / "results.csv")
    again = reread_results(Results.read(tmp_path / "results.csv"), done.pool)
    assert [row.bits_per_byte for row in again] == [row.bits_per_byte for row in done.rows]
    assert again[0].subsets == done.rows[0].subsets


def edited(done, tmp_path, edit):
    """Copy the pool, change the summary of the first run, and return the new rows."""
    pool = tmp_path / "pool"
    shutil.copytree(done.pool, pool, ignore=shutil.ignore_patterns("checkpoints"))
    file = pool / done.rows[0].run_id / "summary.json"
    summary = json.loads(file.read_text())
    edit(summary)
    file.write_text(json.dumps(summary))
    return collect_results(done.plan, pool)


def test_a_missing_run_keeps_its_row(done, tmp_path):
    pool = tmp_path / "pool"
    shutil.copytree(done.pool, pool, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.rmtree(pool / done.rows[3].run_id)
    row = collect_results(done.plan, pool)[3]
    assert (row.status, row.excluded_because) == ("missing", "not run yet")


@pytest.mark.parametrize("key", ["loss", "bits_per_byte"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0.0, -1.0, 1e308])
def test_a_run_without_a_usable_number_is_excluded_and_the_others_are_not(
    done, tmp_path, key, value
):
    """P03: null, NaN, infinite, zero, huge: one bad run does not spoil the fit of the rest."""

    def edit(summary):
        summary["evals"]["val"]["last"][key] = value

    rows = edited(done, tmp_path, edit)
    assert "is not between 0 and 1e6" in rows[0].excluded_because
    assert [row.excluded_because for row in rows.rows[1:]] == [
        row.excluded_because for row in done.rows[1:]
    ]
    points = rows.points()
    assert len(points) == 5
    assert np.isfinite(points.loss).all()


def test_a_stopped_run_says_so(done, tmp_path):
    rows = edited(done, tmp_path, lambda s: s.update(status="stopped", reason="signal 15"))
    assert (rows[0].status, rows[0].excluded_because) == ("stopped", "signal 15")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\n"])
def test_a_table_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(
        DataError, match=r"results\.csv is not a table of a study: it is empty or lacks"
    ):
        Results.read(tmp_path / "results.csv")


def test_a_table_that_is_not_there_names_the_command(tmp_path):
    with pytest.raises(DataError, match=r"results\.csv") as caught:
        Results.read(tmp_path / "results.csv")
    assert "ladderlm study run" in caught.value.fix


@pytest.mark.parametrize("x", ["flops", "device_seconds", "tokens"])
def test_points_are_the_rows_that_count(done, x):
    points = done.rows.points(x)
    rows = good(done)
    assert points.arm.tolist() == [row.arm for row in rows]
    assert points.rung.tolist() == [row.rung for row in rows]
    assert points.seed.tolist() == [row.seed for row in rows]
    assert points.x.tolist() == [getattr(row, x) for row in rows]
    assert points.loss.tolist() == [row.bits_per_byte for row in rows]
    code = done.rows.points(x, subset="Code")
    assert code.loss.tolist() == [row.subsets["Code"] for row in rows]


@pytest.mark.parametrize("column", ["rung", "seed", "flops"])
def test_a_table_without_a_number_where_one_must_stand_is_refused(done, column):
    with pytest.raises(DataError, match=f"{column} = 'many'"):
        Row.from_json(done.rows[0].to_json() | {column: "many"})


def test_runs_without_a_number_are_empty_in_the_table_and_null_where_they_finished(done):
    lost = {"loss": None, "bits_per_byte": None}
    failed = replace(done.rows[0], status="failed", **lost).to_json()
    finished = replace(done.rows[0], **lost).to_json()
    assert (failed["loss"], finished["loss"]) == ("", None)
    assert Row.from_json(finished) == replace(done.rows[0], **lost)


def test_plan_results_and_fits_are_tables_in_a_notebook(done):
    fits = analyse(done.spec, done.rows)
    n_runs, n_judged = len(done.plan.runs), len(fits.judged)
    assert n_judged > 0
    for shown, n_rows in ((done.plan, n_runs), (done.rows, n_runs), (fits, n_judged)):
        assert shown._repr_html_().count("<tr>") == 1 + n_rows
    assert "loss &lt; 0" in replace(fits, problem="loss < 0")._repr_html_()


def test_a_data_frame_needs_pandas_and_says_so(done, monkeypatch):
    rows = []
    pandas = SimpleNamespace(DataFrame=lambda given: rows.extend(given) or "frame")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pandas is not installed"):
        done.rows.to_dataframe()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("importlib.import_module", lambda name: pandas)
    assert done.rows.to_dataframe() == "frame"
    assert rows == [row.to_json() for row in done.rows]
