"""What a run leaves behind, and what it refuses."""

import itertools
import json
import math
import os
import socket
import time
from dataclasses import replace

import pytest
import torch

from ladderlm.checkpoint.layout import list_checkpoints, newest_good
from ladderlm.checkpoint.load import load_state
from ladderlm.data.shards import open_data
from ladderlm.errors import CheckpointError
from ladderlm.eval.stored import load_losses
from ladderlm.eval.subsets import summarise
from ladderlm.files import FolderLock
from ladderlm.run import __main__ as runner
from ladderlm.run.directory import RunDirectory
from ladderlm.run.execute import execute
from reference.runs import lines_of, outcome, write_config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One finished run for all the tests that only look at it; see `run`."""
    return {"folder": tmp_path_factory.mktemp("made") / "run"}


@pytest.fixture
def run(made, tiny_config):
    """A run of 30 steps with default validations and a best step before the last."""
    if "config" not in made:
        made["config"] = tiny_config(
            train__n_steps=30,
            train__log_every_steps=4,
            eval={"n_documents": 10, "sample_tokens": 8, "sample_prompts": ["def "]},
            optim__learning_rate=0.1,
            optim__weight_decay=3.0,
            optim__warmup_fraction=1.0,
            checkpoint__every_steps=10,
            out=str(made["folder"]),
        )
        execute(made["config"], observe=made.setdefault("observed", []).append)
    return RunDirectory(made["folder"])


def test_every_row_of_the_log_stands_once_with_its_fields(run, made):
    """C19: the fields of the contract, counts by hand."""
    rows = run.metrics()
    assert made["observed"] == rows
    keys = [(row["kind"], row.get("split"), row["step"]) for row in rows]
    assert len(keys) == len(set(keys))
    train = run.metrics("train")
    assert [row["step"] for row in train] == [1, *range(4, 29, 4), 30]
    for row in train:
        assert row.keys() == {
            "kind", "step", "n_tokens", "flops", "loss", "learning_rate", "grad_norm", "timing",
        }  # fmt: skip
        assert row["timing"].keys() >= {"seconds", "tokens_per_second"}
        assert row["flops"] == pytest.approx(row["step"] * train[0]["flops"], rel=1e-12)
        assert 0 < row["n_tokens"] <= 256 * row["step"]
    for row in run.metrics("eval"):
        assert row.keys() == {
            "kind", "split", "step", "n_tokens", "flops", "loss", "bits_per_byte", "subsets",
            "policy", "timing",
        }  # fmt: skip
        assert row["policy"].keys() == {"context", "stride", "n_documents"}
        assert set(row["subsets"]) <= {"Code", "Prose"}
    times = [row["timing"]["seconds"] for row in rows]
    assert times == sorted(times)  # monotonic, over the whole run


def test_validation_stands_at_step_0_twenty_times_and_at_the_last_step(run):
    steps = [row["step"] for row in run.metrics("eval") if row["split"] != "val"]
    assert steps[0] == 0
    assert steps[-1] == 30
    assert len(steps) == 21
    assert {b - a for a, b in itertools.pairwise(steps)} <= {1, 2}
    heads = {row["split"] for row in run.metrics("eval")} - {"val"}
    assert len(heads) == 1
    assert heads.pop().startswith("val-head-")


def test_the_first_validation_is_that_of_a_fresh_model(run):
    first = run.metrics("eval")[0]
    assert first["loss"] == pytest.approx(math.log(320), abs=0.1)


def test_the_final_evaluation_covers_all_documents_for_last_and_best(run):
    summary = run.summary()
    assert summary["status"] == "finished"
    last, best = (summary["evals"]["val"][which] for which in ("last", "best"))
    assert last["step"] == 30
    assert best["step"] == summary["best_step"] < 30
    assert best["loss"] < last["loss"]
    split = open_data(run.config().data.path).split("val")
    for result in (last, best):
        assert result["n_documents"] == result["policy"]["n_documents"] == 10
        assert result["split_documents"] == split.n_documents == 12
        assert result["n_bytes"] == split.n_bytes[:10].sum()
        assert set(result["subsets"]) == {"Code", "Prose"}
    (row,) = [row for row in run.metrics("eval") if row["split"] == "val"]
    assert (row["step"], row["loss"]) == (30, last["loss"])
    files = sorted(path.name for path in run.evals.iterdir())
    assert len([name for name in files if name.endswith(".npz")]) == 2
    for path in run.evals.glob("*.npz"):
        beside = json.loads(path.with_suffix(".json").read_text())
        own = summarise(load_losses(path))
        assert {key: beside[key] for key in own} == own


def test_the_best_is_the_lowest_validation_among_the_saved_steps(run):
    losses = {row["step"]: row["loss"] for row in run.metrics("eval") if row["split"] != "val"}
    best = min((10, 20, 30), key=lambda step: losses[step])
    assert run.summary()["best_step"] == best
    assert [c.step for c in list_checkpoints(run.checkpoints)] == [best, 30]


def test_the_summary_counts_tokens_and_compute(run):
    summary = run.summary()
    assert summary["n_positions"] == 30 * 256
    assert summary["n_tokens"] == run.metrics("train")[-1]["n_tokens"]
    assert summary["flops"] == pytest.approx(run.metrics("train")[-1]["flops"])
    params = summary["n_params"]
    assert summary["flops_6nd"] == 6 * params["n_matmul"] * 30 * 256
    assert params["total"] == sum(params[k] for k in ("matrices", "head", "embedding", "norms"))
    saved = newest_good(run.checkpoints, load_state)
    assert sum(weight.numel() for weight in saved.weights.values()) == params["total"]
    assert summary["restarts"] == 0
    assert summary["timing"]["device_seconds"] > 0


def test_the_config_of_a_run_is_whole_and_names_it(run, made):
    config = run.config()
    assert config.run_id == run.summary()["run_id"]
    assert config.model.vocab_size == 320
    assert config.data.fingerprint
    assert config.data.tokenizer_fingerprint
    assert config.eval.fingerprint
    assert config.eval.head_tokens
    assert config.execution.device == "cpu"
    assert config.execution.micro_batch_seqs == 8


def test_the_environment_records_threads_and_versions_and_no_secrets(run, monkeypatch):
    """T15 and P06."""
    environment = run.environment()
    assert environment["n_threads"] == 1
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["world_size"] == 1
    text = run.environment_file.read_text()
    assert "PATH" not in text
    assert f'"{socket.gethostname()}"' not in text


def test_texts_are_written_at_each_checkpoint(run):
    rows = run.samples()
    assert [(row["step"], row["prompt"]) for row in rows] == [
        (step, prompt) for step in (10, 20, 30) for prompt in ("", "", "def ")
    ]
    assert all({"text", "stopped", "temperature", "seed"} <= row.keys() for row in rows)
    assert rows[0]["text"] != rows[1]["text"]


def test_two_runs_of_one_config_are_equal_byte_for_byte(tiny_config, tmp_path):
    """T15: same seed, same threads; another seed is another run."""
    one, two = (outcome(execute(tiny_config(out=str(tmp_path / name)))) for name in "ab")
    assert one == two
    other = tiny_config(out=str(tmp_path / "c"), train__seed=2)
    assert outcome(execute(other))["model"] != one["model"]


def test_texts_and_validations_do_not_change_the_training(tiny_config, tmp_path):
    """C16: whatever is measured on the way, the weights end the same."""
    fields = {"model__dropout": 0.1}
    plain = tiny_config(**fields, eval__n_samples=0, eval__n_evals=1, out=str(tmp_path / "a"))
    busy = tiny_config(**fields, eval__n_samples=3, eval__n_evals=12, out=str(tmp_path / "b"))
    assert outcome(execute(plain))["model"] == outcome(execute(busy))["model"]


def test_another_micro_batch_gives_the_same_losses_but_for_rounding(tiny_config, tmp_path):
    """T02: through the whole loop; ragged because documents are cut at rows."""
    losses = []
    for rows in (8, 3, 1):
        config = tiny_config(
            data__packing="padded",
            execution__micro_batch_seqs=rows,
            out=str(tmp_path / str(rows)),
        )
        metrics = lines_of(execute(config) / "metrics.jsonl")
        losses.append([row["loss"] for row in metrics if row["kind"] == "train"])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)  # float32 sums in another order


@pytest.mark.parametrize("muon", [False, True])
def test_a_padded_run_counts_real_tokens_only(muon, tiny_config):
    """T01: `n_tokens` are targets, not positions."""
    name = "muon" if muon else "adamw"
    folder = execute(tiny_config(data__packing="padded", optim__name=name))
    last = RunDirectory(folder).metrics("train")[-1]
    assert 0 < last["n_tokens"] < 12 * 256
    assert last["loss"] < RunDirectory(folder).metrics("train")[0]["loss"]


def test_a_second_run_in_a_folder_in_use_is_refused_naming_the_holder(tiny_config, tmp_path):
    """C20: by pid, host and time."""
    config = tiny_config()
    with FolderLock(tmp_path / "run"), pytest.raises(CheckpointError) as caught:
        execute(config)
    assert f"pid {os.getpid()}" in str(caught.value)
    assert not (tmp_path / "run/config.json").exists()
    execute(config)  # free again


def test_a_lock_left_by_a_dead_process_is_taken_over(tiny_config, tmp_path):
    """C20: the kernel frees a lock with its process, whatever the file says."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").write_text("pid 1 on elsewhere since yesterday\n")
    execute(tiny_config(train__n_steps=1))


def test_another_meaning_in_the_same_folder_is_refused_naming_the_difference(
    tiny_config, tmp_path, caplog
):
    config = tiny_config(train__n_steps=2)
    wanted = outcome(execute(config))
    other = tiny_config(train__n_steps=2, optim__learning_rate=0.001, model__dim=64)
    assert runner.main([str(write_config(tmp_path / "other.json", other))]) == 2
    assert "model.dim: 32 -> 64" in caplog.text
    assert "optim.learning_rate: 0.003 -> 0.001" in caplog.text
    assert outcome(tmp_path / "run") == wanted


def test_another_execution_in_the_same_folder_is_the_same_run(tiny_config, tmp_path):
    config = tiny_config(train__n_steps=2)
    execute(config)
    execute(replace(config, checkpoint=replace(config.checkpoint, keep=3, every_steps=1)))


def test_without_a_folder_the_run_is_named_by_its_meaning(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = replace(tiny_config(train__n_steps=1), out=None)
    folder = execute(config)
    assert folder.as_posix() == f"runs/{RunDirectory(folder).config().run_id}"


@pytest.mark.parametrize("name", ["with space", "новый 🦙", "new\nline", "x" * 200])
def test_a_run_folder_may_have_any_name(name, tiny_config, tmp_path):
    """C22: spaces, other scripts, a line break, a very long name."""
    folder = execute(tiny_config(train__n_steps=1, out=str(tmp_path / name)))
    assert RunDirectory(folder).finished


@pytest.mark.parametrize(
    ("argv", "word"),
    [([], "wrong arguments"), (["a", "b"], "wrong arguments"), (["nowhere.json"], "nowhere.json")],
)
def test_the_bare_runner_refuses_wrong_use_with_2(argv, word, caplog):
    assert runner.main(argv) == 2
    assert word in caplog.text


def test_the_bare_runner_refuses_an_unknown_option_with_the_nearest(tmp_path, caplog):
    """T19: never ignored."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"train": {"n_step": 3}}))
    assert runner.main([str(path)]) == 2
    assert "did you mean" in caplog.text
    assert "n_steps" in caplog.text


def test_a_clock_that_jumps_changes_no_seconds_of_compute(tiny_config, monkeypatch):
    """S04: an hour back and forth at every look, as a summer time or a time server may do."""
    jumps = itertools.cycle([0.0, 3600.0, -3600.0])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    began = time.monotonic()
    folder = execute(tiny_config())
    took = time.monotonic() - began
    timing = RunDirectory(folder).summary()["timing"]
    assert 0 < timing["device_seconds"] < took
    assert 0 < timing["seconds"] < took
    seconds = [row["timing"]["seconds"] for row in RunDirectory(folder).metrics()]
    assert seconds == sorted(seconds)
