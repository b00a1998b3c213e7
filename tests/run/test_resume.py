"""Stopping anywhere and going on gives what never stopping gives."""

import hashlib
import json
import math
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from ladderlm.checkpoint.layout import list_checkpoints, step_folder
from ladderlm.checkpoint.load import load_state
from ladderlm.data.shards import open_data
from ladderlm.data.stream import RowStream
from ladderlm.errors import CheckpointError, Stopped, TrainingError
from ladderlm.model.transformer import Transformer
from ladderlm.run import __main__ as runner
from ladderlm.run.execute import execute
from ladderlm.training import loop as loop_module
from reference.runs import BrokenError, break_at, lines_of, outcome, rewind, write_config

QUICK = {"eval__n_evals": 4, "eval__n_samples": 0, "eval__n_documents": 3}


def bytes_of(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def steps_of(folder):
    return [checkpoint.step for checkpoint in list_checkpoints(folder / "checkpoints")]


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.long)])
def test_resuming_at_any_of_twenty_steps_ends_with_the_same_bytes(every, tiny_config, tmp_path):
    """C16: dropout on; checkpoint after each step, and a run goes on from each of them.

    Left behind by a crash: the whole log with rows past the checkpoint. C19.
    """

    def config(out, every_steps=20):
        return tiny_config(
            **QUICK | {"eval__n_evals": 0},
            model__dropout=0.1,
            train__n_steps=20,
            checkpoint__every_steps=every_steps,
            checkpoint__keep=30,
            out=str(out),
        )

    whole = execute(config(tmp_path / "whole", every_steps=1))
    wanted = outcome(whole)
    assert steps_of(whole) == list(range(1, 21))
    for step in range(1, 21, every):
        folder = rewind(whole, tmp_path / "again", step)
        execute(config(folder))
        assert outcome(folder) == wanted, f"resumed at step {step}"
        assert json.loads((folder / "summary.json").read_text())["restarts"] == 1
        shutil.rmtree(folder)


def test_dropout_is_there_and_drawn_from_the_seed(tiny_config, tmp_path):
    """C16: were dropout off, the test above would prove nothing about random states."""
    losses = {}
    for name, fields in {
        "on": {"model__dropout": 0.1},
        "on again": {"model__dropout": 0.1},
        "off": {},
    }.items():
        folder = execute(tiny_config(**QUICK, **fields, train__n_steps=2, out=str(tmp_path / name)))
        rows = lines_of(folder / "metrics.jsonl")
        losses[name] = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses["on"] == losses["on again"]
    assert losses["on"] != losses["off"]


def rows_per_epoch(config):
    data = open_data(config.data.path)
    return RowStream(data.split("train"), config.data, data.bos_id).rows_per_epoch


def one_epoch_of(tiny_config):
    """Give fields whose epoch ends exactly with a step, and that step."""
    for seq_len in range(32, 64, 2):
        fields = {"data__seq_len": seq_len, "model__max_seq_len": 64}
        n_rows = rows_per_epoch(tiny_config(**fields, train__global_batch_tokens=seq_len))
        for rows_per_step in range(8, 33):
            if n_rows % rows_per_step == 0 and n_rows // rows_per_step > 4:
                fields["train__global_batch_tokens"] = seq_len * rows_per_step
                return fields, n_rows // rows_per_step
    raise AssertionError("no row length makes the epoch end with a step")


def test_resuming_around_the_border_of_an_epoch_ends_with_the_same_bytes(tiny_config, tmp_path):
    """C17: one step before it, exactly on it, one after; and after the last step."""
    fields, border = one_epoch_of(tiny_config)
    n_steps = border + 2

    def config(out, every_steps=100):
        return tiny_config(
            **QUICK | {"eval__n_evals": 0},
            **fields,
            train__n_steps=n_steps,
            checkpoint__every_steps=every_steps,
            checkpoint__keep=100,
            out=str(out),
        )

    whole = execute(config(tmp_path / "whole", every_steps=1))
    wanted = outcome(whole)
    for step in (border // 2, border - 1, border, border + 1, n_steps):
        folder = rewind(whole, tmp_path / "again", step)
        execute(config(folder))
        assert outcome(folder) == wanted, f"resumed at step {step} of an epoch of {border}"
        shutil.rmtree(folder)


def test_each_target_is_trained_on_exactly_once_an_epoch(tiny_config, monkeypatch, tmp_path):
    """C17: counted in what the loop really reads, over a crash in mid-epoch."""
    fields, border = one_epoch_of(tiny_config)
    seen = []
    train_step = loop_module.train_step

    def spy(state, batch, *args):
        seen.append((state.step + 1, batch))
        return train_step(state, batch, *args)

    monkeypatch.setattr(loop_module, "train_step", spy)
    config = tiny_config(**QUICK, **fields, train__n_steps=border, checkpoint__every_steps=3)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(border // 2))
    execute(config)
    last = dict(seen)  # a step that was redone counts as it was done last
    assert len(seen) > len(last) == border
    split = open_data(config.data.path).split("train")
    counts = dict.fromkeys(range(split.n_documents), 0)
    for batch in last.values():
        for document in batch.document_ids[batch.loss_mask]:
            counts[int(document)] += 1
    lengths = [int(b - a) for a, b in zip(split.offsets, split.offsets[1:], strict=False)]
    assert counts == {d: n - 1 for d, n in enumerate(lengths)}


def test_a_finished_run_is_left_as_it_is(tiny_config, tmp_path):
    """C17: no-op, exit 0, unchanged bytes."""
    config = tiny_config(**QUICK)
    folder = execute(config)
    before = bytes_of(folder)
    execute(config)
    assert runner.main([str(write_config(tmp_path / "config.json", config))]) == 0
    assert runner.main([str(folder / "config.json")]) == 0
    assert bytes_of(folder) == before


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory):
    """Give the outcome of a run that nothing stopped; runs each config once."""
    known = {}

    def give(config):
        place = tmp_path_factory.mktemp("whole")
        key = (config.run_id, config.checkpoint, config.eval)
        if key not in known:
            known[key] = outcome(execute(replace(config, out=str(place / "run"))))
        return known[key]

    return give


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *(("train", step) for step in (1, 3, 5, 6, 10, 12)),
        *(("eval", step) for step in (0, 3, 6, 12)),
    ],
)
def test_a_crash_at_any_row_of_the_log_ends_with_the_same_bytes(kind, step, tiny_config, whole_of):
    """C19: before, at and after checkpoints (5, 10, 12) and validations (0, 3, 6, 9, 12)."""
    config = tiny_config(checkpoint__keep=2)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(step, kind))
    assert outcome(execute(config)) == whole_of(config)


TORN = {
    "a torn last line": lambda raw: raw[:-20],
    "half a line more": lambda raw: raw + b'{"kind": "train", "step": 9',
    "a line without its end": lambda raw: raw[:-1],
    "garbage": lambda raw: raw + b"\x00\xff\n[1]\n\n",
    "rows past the checkpoint": lambda raw: (
        raw + b'{"kind": "train", "step": 11, "loss": 1}\n' + b'{"kind": "eval", "step": 12}\n'
    ),
}


@pytest.mark.parametrize("damage", TORN)
def test_a_torn_log_is_mended_and_every_row_stands_once(damage, tiny_config, tmp_path, whole_of):
    """C19: killed between a row and the checkpoint, or inside a row."""
    config = tiny_config(**QUICK)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(8))
    for name in ("metrics.jsonl", "samples.jsonl"):
        path = tmp_path / "run" / name
        path.write_bytes(TORN[damage](path.read_bytes()))
    found = outcome(execute(config))
    assert found == whole_of(config)
    keys = [(row["kind"], row.get("split"), row["step"]) for row in found["metrics"]]
    assert len(keys) == len(set(keys))


def signal_at(step, number, kind="train"):
    """Give an observer that sends this process a signal when a row is logged."""

    def observe(row):
        if (row["kind"], row["step"]) == (kind, step):
            os.kill(os.getpid(), number)

    return observe


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_a_signal_saves_the_step_and_ends_with_its_own_code(
    number, code, tiny_config, tmp_path, whole_of
):
    """C05: then the same command goes on and ends with the same bytes."""
    config = tiny_config(**QUICK)
    with pytest.raises(Stopped) as caught:
        execute(config, observe=signal_at(7, number))
    assert caught.value.exit_code == code
    folder = tmp_path / "run"
    assert steps_of(folder)[-1] == 7
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert summary["reason"] == f"signal {int(number)}"
    execute(config)
    assert outcome(folder) == whole_of(tiny_config(**QUICK))


@pytest.mark.parametrize(
    ("kind", "step"), [*(("train", step) for step in (3, 5, 6, 9, 12)), ("eval", 12)]
)
def test_a_signal_at_a_step_with_work_beside_the_update_loses_none_of_it(
    kind, step, tiny_config, whole_of
):
    """C05: texts and validation of that step are there once, and the best step is the same.

    Steps 3, 6, 9 and 12 are validated and saved; a second, hard stop right after going on must
    change nothing either. The learning rate rises all along, so that the best step is 6 or 9.
    """
    config = tiny_config(
        checkpoint__every_steps=3,
        checkpoint__keep=2,
        optim__learning_rate=0.1,
        optim__warmup_fraction=1.0,
    )
    with pytest.raises(Stopped):
        execute(config, observe=signal_at(step, signal.SIGTERM, kind))
    if step < 12:
        with pytest.raises(BrokenError):
            execute(config, observe=break_at(step + 1))
    found, wanted = outcome(execute(config)), whole_of(config)
    assert wanted["summary"]["best_step"] in (6, 9)
    assert found == wanted


def test_the_second_signal_changes_nothing(tiny_config, tmp_path):
    """C06: the save is not cut in two."""

    def observe(row):
        if (row["kind"], row["step"]) == ("train", 7):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped) as caught:
        execute(tiny_config(**QUICK), observe=observe)
    assert caught.value.exit_code == 143
    assert steps_of(tmp_path / "run")[-1] == 7


def test_handlers_of_signals_come_back(tiny_config):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    execute(tiny_config(**QUICK, train__n_steps=1))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def models_made(monkeypatch):
    """Collect the models that runs build from here on."""
    made = []
    build = Transformer.__init__

    def spy(self, config):
        build(self, config)
        made.append(self)

    monkeypatch.setattr(Transformer, "__init__", spy)
    return made


@pytest.mark.parametrize("step", [7, 9, 10, 12])
def test_a_weight_that_is_not_a_number_ends_the_run_and_is_never_saved(
    step, tiny_config, tmp_path, monkeypatch, whole_of
):
    """T09: injected between steps (7), before a validation (9), a checkpoint (10), the end (12)."""
    made = models_made(monkeypatch)

    def observe(row):
        if (row["kind"], row["step"]) == ("train", step):
            with torch.no_grad():
                made[-1].layers[1].attention.wo.weight[0, 0] = math.nan

    config = tiny_config(**QUICK)
    with pytest.raises(TrainingError) as caught:
        execute(config, observe=observe)
    folder = tmp_path / "run"
    good = 10 if step == 12 else 5
    assert steps_of(folder)[-1] == good
    assert "nan" in str(caught.value) or "finite" in str(caught.value)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert str(step) in summary["reason"] or str(step + 1) in summary["reason"]
    assert summary["best_step"] in (None, *steps_of(folder))
    execute(config)  # without the fault it goes on from the good one
    assert outcome(folder) == whole_of(tiny_config(**QUICK))


def test_a_run_that_diverges_exits_with_1_and_names_step_and_documents(
    tiny_config, tmp_path, capsys, caplog
):
    """T09: by the bare runner, with a learning rate that cannot work."""
    config = tiny_config(**QUICK, optim__learning_rate=1e38, optim__grad_clip=None)
    assert runner.main([str(write_config(tmp_path / "config.json", config))]) == 1
    assert "step " in caplog.text
    for checkpoint in list_checkpoints(tmp_path / "run/checkpoints"):
        weights = load_state(checkpoint).weights
        assert all(weight.isfinite().all() for weight in weights.values())


def damage(folder, step):
    path = step_folder(folder / "checkpoints", step) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_newest_checkpoint_is_said_and_the_run_ends_with_the_same_bytes(
    tiny_config, tmp_path, caplog, whole_of
):
    """C10: falls back to the one before it, visibly."""
    config = tiny_config(**QUICK, checkpoint__keep=2)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(11))
    folder = tmp_path / "run"
    assert steps_of(folder) == [5, 10]
    damage(folder, 10)
    with caplog.at_level("INFO"):
        execute(config)
    assert "step-00000010" in caplog.text
    assert "resuming from step 5" in caplog.text
    assert outcome(folder) == whole_of(config)


def test_rotation_never_prefers_a_damaged_checkpoint_to_a_good_one(tiny_config, tmp_path, whole_of):
    """C13: after a fall-back the damaged newer one must not push out what is saved next."""
    # without validations in between no best checkpoint is pinned that could save the day
    fields = {**QUICK, "eval__n_evals": 0, "checkpoint__keep": 1, "checkpoint__every_steps": 2}
    # a second good one beside the newest, as --checkpoint.keep 2 leaves it
    again = tiny_config(**{**fields, "checkpoint__keep": 2}, out=str(tmp_path / "two"))
    with pytest.raises(BrokenError):
        execute(again, observe=break_at(11))
    assert steps_of(tmp_path / "two")[-2:] == [8, 10]
    damage(tmp_path / "two", 10)
    one = tiny_config(**fields, out=str(tmp_path / "two"))
    with pytest.raises(Stopped):
        execute(one, observe=signal_at(9, signal.SIGTERM))
    execute(one)
    assert outcome(tmp_path / "two") == whole_of(one)


def test_a_run_whose_checkpoints_are_all_damaged_stops_and_keeps_them(
    tiny_config, tmp_path, whole_of
):
    """C10: with the way out in the message."""
    config = tiny_config(**QUICK)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(8))
    folder = tmp_path / "run"
    damage(folder, 5)
    with pytest.raises(CheckpointError, match="all 1 checkpoints") as caught:
        execute(config)
    assert "--resume never" in caught.value.fix
    assert steps_of(folder) == [5]
    execute(config, "never")
    assert outcome(folder) == whole_of(tiny_config(**QUICK))


def test_a_best_checkpoint_that_is_gone_is_an_error_by_name(tiny_config, tmp_path):
    """C13: deleted by hand; no KeyError at the very end."""
    fields = {**QUICK, "checkpoint__every_steps": 3, "optim__learning_rate": 0.02}
    config = tiny_config(**fields)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(11))
    folder = tmp_path / "run"
    newest = list_checkpoints(folder / "checkpoints")[-1].folder
    state = json.loads((newest / "state.json").read_text())
    state["best"] = {"step": 3, "loss": 0.5}  # as if step 3 had been the best, and is gone
    text = json.dumps(state)
    (newest / "state.json").write_text(text)
    manifest = json.loads((newest / "manifest.json").read_text())
    digest = hashlib.sha256(text.encode()).hexdigest()
    manifest["files"]["state.json"] = {"n_bytes": len(text.encode()), "sha256": digest}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"step 3|step-00000003"):
        execute(config)


def test_an_unfinished_save_is_removed_and_said(tiny_config, tmp_path, caplog):
    """C11: killed inside a save."""
    config = tiny_config(**QUICK)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(8))
    half = step_folder(tmp_path / "run/checkpoints", 8)
    half.mkdir()
    (half / ".tmp-1-model.safetensors").write_bytes(b"half")
    execute(config)
    assert "removed step-00000008" in caplog.text
    assert not half.exists()


def test_going_on_with_other_threads_keeps_the_threads_of_the_run_and_says_so(
    tiny_config, tmp_path, caplog, whole_of
):
    """T15: a change of threads would change the last bits."""
    config = tiny_config(**QUICK)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(8))
    try:
        execute(tiny_config(**QUICK, execution__n_threads=2, execution__micro_batch_seqs=3))
    finally:
        torch.set_num_threads(1)
    assert "resuming with 1 threads" in caplog.text
    folder = tmp_path / "run"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["n_threads"] == 1
    assert outcome(folder) == whole_of(tiny_config(**QUICK))


def test_resume_must_and_never_do_as_they_say(tiny_config, tmp_path):
    config = tiny_config(**QUICK)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        execute(config, "must")
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(8))
    execute(config, "must")
    folder = tmp_path / "run"
    wanted = outcome(folder)
    longer = tiny_config(**QUICK, train__n_steps=13)
    with pytest.raises(CheckpointError, match=r"train\.n_steps: 12 -> 13"):
        execute(longer)
    assert outcome(folder) == wanted
    execute(longer, "never")
    assert outcome(folder)["step"] == "step-00000013"
