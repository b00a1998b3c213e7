"""From a run folder to a stored evaluation: which checkpoint, which data, and when not again."""

import json
import logging
import shutil

import numpy as np
import pytest

from ladderlm.checkpoint.layout import list_checkpoints
from ladderlm.errors import CheckpointError, ConfigError, DataError
from ladderlm.eval.config import EvaluationRequest
from ladderlm.eval.stored import load_losses
from ladderlm.run import subject
from ladderlm.run.directory import RunDirectory
from ladderlm.run.execute import execute
from ladderlm.run.subject import evaluate_run
from ladderlm.watch import Watch

_finished = []  # the run is made once and copied for every test


@pytest.fixture
def run(tiny_config, tmp_path, tmp_path_factory):
    """A run of 12 steps, validated on 10 documents."""
    if not _finished:
        out = str(tmp_path_factory.mktemp("evaluated") / "run")
        _finished.append(execute(tiny_config(eval__n_documents=10, out=out)))
    return RunDirectory(shutil.copytree(_finished[0], tmp_path / "run"))


@pytest.fixture
def forward_passes(monkeypatch):
    """Count how often documents are really scored."""
    calls = []
    score = subject.score_documents

    def counted(*arguments, **options):
        calls.append(1)
        return score(*arguments, **options)

    monkeypatch.setattr(subject, "score_documents", counted)
    return calls


def test_the_end_of_a_run_is_not_scored_again(run, forward_passes):
    """What the run itself stored has the same key: weights, data, policy."""
    found = evaluate_run(run.path, EvaluationRequest(max_documents=10))
    stated = run.summary()["evals"]["val"]["last"]
    assert not forward_passes
    assert found.summary["reused"]
    for name in ("bits_per_byte", "loss", "eos_nats", "subsets", "macro_bits_per_byte"):
        assert found.summary[name] == stated[name], name
    again = evaluate_run(run.path, EvaluationRequest(max_documents=10, fresh=True))
    assert (len(forward_passes), again.summary["reused"]) == (1, False)
    assert again.losses.nats.tolist() == found.losses.nats.tolist()


def test_another_policy_or_checkpoint_is_scored_and_then_stored(run, forward_passes):
    requests = [
        EvaluationRequest(max_documents=9),
        EvaluationRequest(max_documents=10, context=16),
        EvaluationRequest(max_documents=10, context=16, stride=5),
        EvaluationRequest(max_documents=10, split="train"),
    ]
    first = [evaluate_run(run.path, request) for request in requests]
    assert len(forward_passes) == len(requests)
    second = [evaluate_run(run.path, request) for request in requests]
    assert len(forward_passes) == len(requests)
    for one, two in zip(first, second, strict=True):
        assert (one.summary["reused"], two.summary["reused"]) == (False, True)
        assert one.path == two.path
        assert one.losses.nats.tolist() == two.losses.nats.tolist()
        hidden = {"reused", "timing"}
        assert {k: v for k, v in one.summary.items() if k not in hidden} == {
            k: v for k, v in two.summary.items() if k not in hidden
        }
        npz = load_losses(one.path.with_suffix(".npz"))
        assert npz.text_hashes.tolist() == one.losses.text_hashes.tolist()
    assert len({one.path for one in first}) == len(requests)


def test_changed_weights_are_scored_anew(run, tiny_config, tmp_path, forward_passes):
    """The key is the hash of the weights, not the folder and the step."""
    evaluate_run(run.path, EvaluationRequest(max_documents=7))
    other = execute(tiny_config(train__seed=2, out=str(tmp_path / "other")))
    last = list_checkpoints(run.checkpoints)[-1].folder
    for file in (other / "checkpoints" / last.name).iterdir():
        (last / file.name).write_bytes(file.read_bytes())
    assert not evaluate_run(run.path, EvaluationRequest(max_documents=7)).summary["reused"]
    assert len(forward_passes) == 2


def test_a_damaged_stored_evaluation_is_made_again(run, forward_passes):
    first = evaluate_run(run.path, EvaluationRequest(max_documents=7))
    npz = first.path.with_suffix(".npz")
    npz.write_bytes(npz.read_bytes()[:-40])
    again = evaluate_run(run.path, EvaluationRequest(max_documents=7))
    assert len(forward_passes) == 2
    assert load_losses(npz).nats.tolist() == again.losses.nats.tolist()


def test_every_output_says_what_was_scored_and_what_the_weights_cost(run):
    summary = evaluate_run(run.path, EvaluationRequest(max_documents=10)).summary
    assert summary["policy"] == {"context": 32, "stride": 32, "n_documents": 10}
    assert (summary["split"], summary["split_documents"], summary["step"]) == ("val", 12, 12)
    (file,) = summary["source"]["files"]
    assert file["name"] == "val.jsonl"
    assert len(file["sha256"]) == 64
    assert summary["source"]["overlap_with_train"] == 0
    assert summary["training"]["n_params"] == run.summary()["n_params"]
    assert summary["training"]["flops"] == run.summary()["flops"]
    assert summary["precision"] == "float32"
    assert len(summary["key"]["weights"]) == 64


def test_checkpoints_are_named_by_step_folder_last_or_best(run):
    best, last = run.summary()["best_step"], 12
    for name, step in (
        (None, last),
        ("last", last),
        ("best", best),
        (str(last), last),
        (f"step-{last:08d}", last),
    ):
        request = EvaluationRequest(max_documents=2, checkpoint=name)
        assert evaluate_run(run.path, request).summary["step"] == step
    for name in ("7", "first", "step-", "-1", ""):
        with pytest.raises(CheckpointError, match="has no checkpoint"):
            evaluate_run(run.path, EvaluationRequest(checkpoint=name))


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(tiny_config, caplog):
    """C10: an older one is scored, and its step is said."""
    path = execute(tiny_config(checkpoint__keep=3))
    steps = [c.step for c in list_checkpoints(path / "checkpoints")]
    file = path / f"checkpoints/step-{steps[-1]:08d}/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with caplog.at_level(logging.WARNING):
        summary = evaluate_run(path, EvaluationRequest(max_documents=2)).summary
    assert summary["step"] == steps[-2]
    assert "skipping a damaged checkpoint" in caplog.text
    with pytest.raises(CheckpointError, match="is damaged"):
        evaluate_run(path, EvaluationRequest(max_documents=2, checkpoint="last"))


def test_a_run_without_checkpoint_says_so(run):
    for checkpoint in list_checkpoints(run.checkpoints):
        (checkpoint.folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        evaluate_run(run.path, EvaluationRequest())


def test_of_several_data_folders_the_one_of_the_runs_tokenizer_is_taken(run, tiny_data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    manifest = json.loads((tiny_data / "manifest.json").read_text())
    manifest["tokenizer"]["fingerprint"] = "0" * 64
    from ladderlm.data.shards import manifest_fingerprint

    manifest["fingerprint"] = manifest_fingerprint(manifest)
    (other / "manifest.json").write_text(json.dumps(manifest))
    found = evaluate_run(run.path, EvaluationRequest(data=(other, tiny_data), max_documents=3))
    assert found.summary["n_documents"] == 3
    with pytest.raises(ConfigError, match="another tokenizer"):
        evaluate_run(run.path, EvaluationRequest(data=(other,)))


def test_data_whose_index_lies_about_its_bytes_is_refused(run, tiny_data, monkeypatch):
    from ladderlm.data.shards import PreparedData

    split = PreparedData.split

    def lying(self, name, verify=True):
        found = split(self, name, verify)
        found.n_bytes[3] -= 1
        return found

    monkeypatch.setattr(PreparedData, "split", lying)
    with pytest.raises(DataError, match="the index gives"):
        evaluate_run(run.path, EvaluationRequest(max_documents=5))


def test_an_interruption_leaves_no_file(run):
    """C05: nothing is stored before everything is scored."""
    before = sorted(path.name for path in run.evals.iterdir())
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_run(
            run.path, EvaluationRequest(max_documents=8, batch_tokens=8), watch=Watch(check)
        )
    assert sorted(path.name for path in run.evals.iterdir()) == before


def test_the_stored_losses_are_one_entry_a_document(run):
    found = evaluate_run(run.path, EvaluationRequest(max_documents=8))
    losses = load_losses(found.path.with_suffix(".npz"))
    assert losses.document_ids.tolist() == list(range(8))
    assert np.isfinite(losses.nats).all()
