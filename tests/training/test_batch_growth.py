"""A batch that grows: whole rows, none twice, and the counts that follow from it."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.data.stream import RowStream
from ladderlm.errors import ConfigError
from ladderlm.run.execute import execute
from ladderlm.training.config import BatchGrowth
from reference.runs import BrokenError, break_at, lines_of, outcome

QUICK = {"eval__n_evals": 0, "eval__n_samples": 0, "eval__n_documents": 2}
GROWING = {"train__first_batch_tokens": 64, "train__batch_warmup_fraction": 0.5}


@given(first=st.integers(1, 50), more=st.integers(0, 300), n_rising=st.integers(0, 60))
def test_rows_rise_in_a_straight_line_and_stay(first, more, n_rising):
    """Beside the line itself: first + (full - first) * step / n_rising, rounded to a row."""
    growth = BatchGrowth(first, first + more, n_rising)
    rows = [growth.rows_at(step) for step in range(n_rising + 3)]
    for step, found in enumerate(rows[:n_rising]):
        assert abs(found - (first + more * step / n_rising)) < 1
    assert rows[n_rising:] == [first + more] * 3
    if n_rising:
        assert rows[0] == first
    assert [growth.rows_before(step) for step in range(len(rows))] == [
        sum(rows[:step]) for step in range(len(rows))
    ]


def test_a_growing_run_reads_each_row_once_and_counts_what_it_read(tiny_config, monkeypatch):
    read = []
    rows = RowStream.rows

    def spy(self, first_row, n_rows, *args):
        read.append((first_row, n_rows))
        return rows(self, first_row, n_rows, *args)

    monkeypatch.setattr(RowStream, "rows", spy)
    config = tiny_config(**QUICK, **GROWING)
    folder = execute(config)
    assert [n for _, n in read] == [2, 3, 4, 5, 6, 7, *[8] * 6]
    assert [first for first, _ in read] == [sum(n for _, n in read[:i]) for i in range(12)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n_positions"] == 32 * sum(n for _, n in read) == config.positions_after(12)
    last = [row for row in lines_of(folder / "metrics.jsonl") if row["kind"] == "train"][-1]
    assert last["flops"] == pytest.approx(summary["flops"])
    assert summary["timing"]["device_seconds"] > 0


def test_a_growing_run_that_was_stopped_ends_with_the_same_bytes(tiny_config, tmp_path):
    """C16: in the midst of the rise."""
    fields = {**QUICK, **GROWING, "checkpoint__every_steps": 4}
    whole = outcome(execute(tiny_config(**fields, out=str(tmp_path / "whole"))))
    with pytest.raises(BrokenError):
        execute(tiny_config(**fields), observe=break_at(5))
    assert outcome(execute(tiny_config(**fields))) == whole


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train__first_batch_tokens": 512}, "be between 1 and train.global_batch_tokens"),
        ({"train__first_batch_tokens": 33}, "multiple of data.seq_len"),
        ({"train__first_batch_tokens": 32, "execution__compile": "on"}, "compiled for one shape"),
        ({"train__batch_warmup_fraction": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"train__z_loss": -1.0}, "positive"),
        ({"train__ema_decay": 1.0}, "above 0 and below 1, got 1.0"),
        ({"model__logit_softcap": 0.0}, "positive"),
    ],
)
def test_what_cannot_be_is_refused(fields, message, tiny_config):
    with pytest.raises(ConfigError, match=message):
        execute(tiny_config(**fields))


def test_new_options_at_rest_leave_the_names_of_runs_alone(tiny_config):
    """A run that was named before they existed keeps its name; each of them makes another."""
    names = {tiny_config().run_id}
    neutral = {"first_batch_tokens": None, "batch_warmup_fraction": 0.1}
    neutral |= {"z_loss": None, "ema_decay": None}
    names |= {tiny_config(**{f"train__{k}": v}).run_id for k, v in neutral.items()}
    names.add(tiny_config(model__logit_softcap=None).run_id)
    assert names == {"2544f4858fb0"}
    moved = {"train__first_batch_tokens": 64, "train__z_loss": 1e-4, "train__ema_decay": 0.9}
    moved |= {"model__logit_softcap": 30.0, "optim__schedule": "linear"}
    assert len({tiny_config(**{k: v}).run_id for k, v in moved.items()} | names) == 6


def test_the_penalty_moves_weights_and_leaves_the_first_loss_alone(tiny_config, tmp_path):
    losses = []
    for z_loss in (None, 1.0):
        folder = execute(
            tiny_config(**QUICK, train__z_loss=z_loss, out=str(tmp_path / str(z_loss)))
        )
        rows = [row for row in lines_of(folder / "metrics.jsonl") if row["kind"] == "train"]
        losses.append([row["loss"] for row in rows])
    assert losses[0][0] == losses[1][0]
    assert losses[0][1:] != losses[1][1:]
    assert all(map(math.isfinite, losses[1]))
