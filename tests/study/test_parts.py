"""A study on several machines: parts share nothing, the merged pool is that of one machine."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from builders import InOwnProcess, tiny_study, write_study
from ladderlm.cli.main import main
from ladderlm.errors import ConfigError
from ladderlm.study.launch import launch
from ladderlm.study.options import SearchOptions
from ladderlm.study.parts import check_same_study, merge_runs, part_of
from ladderlm.study.plan import plan_study
from ladderlm.study.results import TIMING_COLUMNS, Results, collect_results
from ladderlm.study.spec import read_study


@pytest.fixture
def plan(tiny_data, tmp_path):
    """Two arms, three rungs, two seeds: six pairs."""
    values = tiny_study(tiny_data)
    values["ladder"]["seeds"] = [1, 2]
    return plan_study(read_study(write_study(tmp_path / "s.toml", values)), tmp_path / "pool")


@pytest.mark.parametrize("n_parts", [1, 2, 3, 6, 8])
def test_every_run_is_in_one_part_and_pairs_stay_together(plan, n_parts):
    """S01: nothing lost, nothing twice, whatever the number of parts."""
    parts = [part_of(plan, i + 1, n_parts) for i in range(n_parts)]
    assert Counter(run.run_id for part in parts for run in part.runs) == Counter(
        run.run_id for run in plan.runs
    )
    for part in parts:
        pairs = Counter((run.rung.index, run.seed) for run in part.runs)
        assert set(pairs.values()) <= {2}
    assert max(part.flops for part in parts) <= plan.flops / n_parts + max(
        2 * run.rung.flops for run in plan.runs
    )
    assert parts == [part_of(plan, i + 1, n_parts) for i in range(n_parts)]


@pytest.mark.parametrize(("part", "n_parts"), [(0, 2), (3, 2), (1, 0)])
def test_parts_that_do_not_exist_are_refused(plan, part, n_parts):
    with pytest.raises(ConfigError, match=r"--part must be 1/"):
        part_of(plan, part, n_parts)


def pool_of(done, folder, keep):
    """Copy the runs of the finished study for which `keep(i)` holds."""
    for i, run in enumerate(done.plan.runs):
        if keep(i):
            shutil.copytree(done.pool / run.run_id, folder / run.run_id)
    return folder


def timeless(rows):
    return [{k: v for k, v in row.to_json().items() if k not in TIMING_COLUMNS} for row in rows]


def test_the_merged_pool_gives_the_table_of_one_machine(done, tmp_path):
    """S02: failed runs come along, with their reasons."""
    one = pool_of(done, tmp_path / "one", lambda i: i % 3 == 0)
    two = pool_of(done, tmp_path / "two", lambda i: i % 3 != 0)
    merged = merge_runs(done.plan, tmp_path / "all", [one, two])
    assert set(merged.copied) == {run.run_id for run in done.plan.runs}
    assert collect_results(done.plan, tmp_path / "all") == done.rows
    again = merge_runs(done.plan, tmp_path / "all", [one, two])
    finished = {row.run_id for row in done.rows if row.status == "finished"}
    assert (again.copied, set(again.present)) == ((), finished)


def edit(folder, change):
    summary = json.loads((folder / "summary.json").read_text())
    change(summary)
    (folder / "summary.json").write_text(json.dumps(summary))


def test_the_same_run_with_other_results_is_refused_before_anything_is_copied(done, tmp_path):
    """S06, S07: which of the two is right is not for the merge to say."""
    one = pool_of(done, tmp_path / "one", lambda i: True)
    two = pool_of(done, tmp_path / "two", lambda i: True)
    run_id = done.plan.runs[-2].run_id

    def slower(summary):
        summary["timing"]["seconds"] *= 3

    edit(two / run_id, slower)
    merge_runs(done.plan, tmp_path / "all", [one, two])

    def other(summary):
        summary["evals"]["val"]["last"]["loss"] *= 1 + 1e-9

    edit(two / run_id, other)
    with pytest.raises(ConfigError, match=f"{run_id} are finished runs of one name") as caught:
        merge_runs(done.plan, tmp_path / "none", [one, two])
    assert "move one of the two" in caught.value.fix
    assert not (tmp_path / "none").exists()


def test_a_finished_run_replaces_one_that_was_cut_short_and_an_unfinished_one_stays(done, tmp_path):
    """S01: what a part has not ended is named, never counted."""
    one = pool_of(done, tmp_path / "one", lambda i: i < 2)
    two = pool_of(done, tmp_path / "two", lambda i: i < 1)
    first, second = (run.run_id for run in done.plan.runs[:2])
    edit(two / first, lambda s: s.update(status="stopped"))
    edit(one / second, lambda s: s.update(status="running"))
    merged = merge_runs(done.plan, two, [one])
    assert (merged.copied, merged.unfinished) == ((first,), (second,))
    assert not (two / second).exists()
    assert json.loads((two / first / "summary.json").read_text())["status"] == "finished"


def test_a_part_of_another_study_is_refused_by_what_differs(done, tmp_path):
    other = replace(done.spec, ladder=replace(done.spec.ladder, tokens_per_param=0.6))
    with pytest.raises(ConfigError, match=r"tokens_per_param: 0\.5 -> 0\.6"):
        check_same_study(done.spec, other, tmp_path)
    search = SearchOptions(flops=1e12, options=(("optim.beta2", (0.9, 0.95)),))
    with pytest.raises(ConfigError, match="search"):
        check_same_study(done.spec, replace(done.spec, search=search), tmp_path)
    moved = replace(done.spec, base=replace(done.spec.base, out="elsewhere"))
    check_same_study(done.spec, moved, tmp_path)


def test_parts_are_run_and_merged_by_commands(tiny_data, tmp_path, monkeypatch, capsys):
    """The table, the fits and the report of the whole come out of the merge."""
    monkeypatch.setattr("ladderlm.cli.study.make_executor", lambda *a: InOwnProcess())
    monkeypatch.setattr("ladderlm.cli.study._draw_study", lambda *a: None)  # tested elsewhere
    values = tiny_study(tiny_data)
    values["ladder"]["flops"] = values["ladder"]["flops"][:2]
    file = write_study(tmp_path / "study.toml", values)
    parts = [tmp_path / f"part-{i}" for i in (1, 2)]
    for i, out in enumerate(parts, start=1):
        words = ["study", "run", str(file), "--out", str(out), "--part", f"{i}/2"]
        assert main(words) == 0
        assert not (out / "fits.json").exists()
    out = tmp_path / "whole"
    assert main(["study", "merge", *map(str, parts), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("merge DIR...\n")[-1])["study"] == "tiny"
    plan = plan_study(read_study(file), tmp_path / "alone")
    launch(plan, tmp_path / "alone", InOwnProcess())
    assert timeless(Results.read(out / "results.csv")) == timeless(
        collect_results(plan, tmp_path / "alone")
    )
    assert main(["study", "status", str(file), "--out", str(out)]) == 0
    assert "4 of 4 runs are finished" in capsys.readouterr().out
