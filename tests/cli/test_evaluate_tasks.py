"""`ladderlm eval --tasks`: tasks of lm-eval on a run, offline."""

import math
import sys
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from ladderlm.foreign.lm_eval import Answers
from ladderlm.run.open import load
from reference.tasks import RECORDS, TASKS, keep_datasets_in, write_tasks


@dataclass
class Asked:
    """A question as lm-eval asks it."""

    args: tuple


def check_by_hand(results, run):
    """Compare accuracy, bits per byte and exact matches with what the answers amount to."""
    answers = Answers(load(run))
    n_right = 0
    for record in RECORDS:
        pairs = [Asked((record["q"], choice)) for choice in record["choices"]]
        scores = [score for score, _ in answers.loglikelihood(pairs)]
        n_right += scores.index(max(scores)) == record["label"]
    assert results["own_choice"]["acc,none"] == pytest.approx(n_right / 3)
    texts = [record["q"] + record["choices"][0] for record in RECORDS]
    nats = -sum(answers.loglikelihood_rolling([Asked((text,)) for text in texts]))
    n_bytes = sum(len(text.encode()) for text in texts)
    assert results["own_text"]["bits_per_byte,none"] == pytest.approx(nats / n_bytes / math.log(2))
    options = TASKS["own_words"]["generation_kwargs"]
    written = answers.generate_until([Asked((record["q"], options)) for record in RECORDS])
    hits = sum(text == record["choices"][0] for text, record in zip(written, RECORDS, strict=True))
    assert results["own_words"]["exact_match,none"] == pytest.approx(hits / 3)


@pytest.mark.filterwarnings("ignore")
def test_tasks_are_run_and_their_metrics_printed(ladderlm, run, tmp_path, monkeypatch):
    keep_datasets_in(tmp_path / "cache", monkeypatch)
    task_folder = write_tasks(tmp_path / "tasks")
    words = ("eval", run, "--tasks", "own_choice,own_text", "--task-folder", task_folder)
    found = ladderlm(*words, "--tasks", "own_words", "--json").json
    assert (found["run"], found["step"]) == (str(run), 8)
    assert found["n-samples"]["own_choice"] == {"original": 3, "effective": 3}
    check_by_hand(found["results"], run)
    said = ladderlm(*words, "--max-documents", "2", "--checkpoint", "4")
    assert said.code == 0
    assert f"{run}, step 4" in said.out
    lines = {tuple(line.split()[:3]) for line in said.out.splitlines()}
    assert {("own_choice", "2", "acc"), ("own_text", "2", "bits_per_byte")} <= lines
    said = ladderlm("eval", run, "--tasks", "own_choise", "--task-folder", task_folder)
    assert said.code == 2
    assert "none of the 3 tasks" in said.err
    assert "is called own_choise" in said.err
    assert "own_choice" in said.err.partition("the nearest are")[2]
    (task_folder / "own.jsonl").unlink()
    said = ladderlm("eval", run, "--tasks", "own_choice", "--task-folder", task_folder)
    assert said.code == 2
    assert "lm-eval cannot run own_choice" in said.err


def test_the_average_of_the_weights_can_be_asked(
    ladderlm, config_file, tiny_data, tmp_path, monkeypatch
):
    out = tmp_path / "averaged"
    words = ("--config", config_file, "--data", tiny_data, "--out", out)
    assert ladderlm("train", *words, "--train.ema-decay", "0.5").code == 0
    seen = []

    def keep(run, *_rest):
        seen.append(run.model.norm.weight)
        return {"results": {}, "n-samples": {}}

    monkeypatch.setattr("ladderlm.foreign.lm_eval.run_tasks", keep)
    for name in ("last", "average"):
        said = ladderlm("eval", out, "--tasks", "x", "--checkpoint", name)
        assert said.code == 0, said.err
    folder = out / "checkpoints/step-00000008"
    for weight, file in zip(seen, ("model", "average"), strict=True):
        assert torch.equal(weight, load_file(folder / f"{file}.safetensors")["norm.weight"])
    assert not torch.equal(*seen)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "x"], "--tasks cannot be combined with --data"),
        (["--context", "8", "--table"], "--tasks cannot be combined with --context, --table"),
        (["--checkpoint", "first"], "has no checkpoint"),
        (["--device", "cuda"], "--device cuda"),
    ],
)
def test_options_of_a_split_do_not_go_with_tasks(words, says, ladderlm, run):
    said = ladderlm("eval", run, "--tasks", "own_choice", *words)
    assert said.code == 2
    assert says in said.err


def test_a_foreign_folder_is_sent_to_lm_eval_itself(ladderlm, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    said = ladderlm("eval", tmp_path, "--tasks", "own_choice")
    assert said.code == 2
    assert f"lm_eval --model hf --model_args pretrained={tmp_path} --tasks own_choice`" in said.err


def test_without_lm_eval_the_extra_is_named(ladderlm, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    said = ladderlm("eval", run, "--tasks", "own_choice")
    assert said.code == 2
    assert "pip install 'ladderlm[evals]'" in said.err
