"""Batches made ahead: the same ones in the same order, and errors where they belong."""

import json
import threading
import time

import pytest

from ladderlm.errors import DataError
from ladderlm.files import read_json
from ladderlm.run.directory import RunDirectory
from ladderlm.run.execute import execute
from ladderlm.training.ahead import Ahead
from reference.runs import BrokenError, break_at


def test_every_step_is_made_once_and_one_ahead():
    made = []
    ahead = Ahead(lambda step: made.append(step) or 10 * step, 4)
    assert [ahead.take(step)[0] for step in (0, 1, 2, 3)] == [0, 10, 20, 30]
    ahead.close()
    assert made == [0, 1, 2, 3]  # and nothing past the end


def test_another_step_than_the_next_is_made_anew():
    ahead = Ahead(lambda step: step, 100)
    assert [ahead.take(step)[0] for step in (5, 50, 7, 7)] == [5, 50, 7, 7]
    ahead.close()


def test_the_next_value_is_made_while_the_caller_works():
    ahead = Ahead(lambda step: time.sleep(0.05) or step, 3)
    _, first = ahead.take(0)
    time.sleep(0.2)  # the caller's own work
    _, second = ahead.take(1)
    ahead.close()
    assert first >= 0.05
    assert second < 0.05


def test_an_error_comes_with_its_own_step():
    def make(step):
        if step == 1:
            raise DataError("bad row")
        return step

    ahead = Ahead(make, 3)
    assert ahead.take(0)[0] == 0
    with pytest.raises(DataError, match="bad row"):
        ahead.take(1)
    ahead.close()


def test_no_thread_is_left_after_a_run_and_the_wait_is_reported(tiny_config):
    folder = execute(tiny_config(train__n_steps=3, eval__n_samples=0))
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
    rows = RunDirectory(folder).metrics("train")
    assert all(0 <= r["timing"]["data_wait_seconds"] <= r["timing"]["step_seconds"] for r in rows)
    assert read_json(folder / "summary.json")["status"] == "finished"


def test_every_start_notes_its_first_step_in_its_first_logged_row(tiny_config):
    """A start that begins between two logged steps too."""
    fields = {"train__n_steps": 12, "train__log_every_steps": 5, "eval__n_evals": 12}
    fields |= {"checkpoint__every_steps": 1, "eval__n_samples": 0}
    with pytest.raises(BrokenError):
        execute(tiny_config(**fields), observe=break_at(7, "eval"))
    folder = execute(tiny_config(**fields))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    noted = [row["step"] for row in rows if row["timing"].get("seconds_to_first_step")]
    assert noted == [1, 10]
    timing = json.loads((folder / "summary.json").read_text())["timing"]
    assert 0 < timing["aside_fraction"] < 1
