"""Planted bugs: each is caught by a check that other tests rely on, so the checks can fail."""

import dataclasses

import numpy as np
import pytest
import torch

from ladderlm.checkpoint import layout
from ladderlm.checkpoint import load as load_module
from ladderlm.data.batch import Batch
from ladderlm.model import attention as attention_module
from ladderlm.model import transformer as transformer_module
from ladderlm.model.attention import document_mask
from ladderlm.model.loss import sum_head_nats, token_nats
from ladderlm.run import execute as execute_module
from ladderlm.run.execute import execute
from ladderlm.training import loop as loop_module
from ladderlm.training import session as session_module
from ladderlm.training import state as state_module
from ladderlm.training import step as step_module
from reference import checks
from reference.hand_made import make_model
from reference.runs import BrokenError, break_at, outcome


def caught(check, *args):
    """Say whether a check fails; without the bug it passes."""
    with pytest.raises(AssertionError):
        check(*args)


def test_all_checks_pass_without_a_bug():
    checks.check_padding()
    checks.check_accumulation(torch.float64)
    checks.check_identity_model()


def test_a_loss_that_counts_padding_is_caught(monkeypatch):
    """T01."""
    monkeypatch.setattr(
        step_module, "sum_head_nats", lambda *args: sum_head_nats(*args[:3], args[3] | True)
    )
    caught(checks.check_padding)


def test_a_mean_of_means_over_micro_batches_is_caught(monkeypatch):
    """T02."""

    def mean(hidden, head, targets, mask, *_):
        return token_nats(hidden, head, targets)[mask].mean()

    monkeypatch.setattr(step_module, "sum_head_nats", mean)
    caught(checks.check_accumulation, torch.float64)


@pytest.mark.parametrize("shift", [-1, 1])
def test_targets_shifted_once_too_little_or_too_much_are_caught(shift, monkeypatch):
    """T06."""
    rows = Batch.rows

    def shifted(self, start, stop):
        part = rows(self, start, stop)
        targets = part.tokens if shift < 0 else np.roll(part.targets, -1, axis=1)
        return dataclasses.replace(part, targets=targets)

    monkeypatch.setattr(Batch, "rows", shifted)
    caught(checks.check_identity_model)
    caught(checks.check_copy_task)


def test_a_mask_that_lets_everything_see_padding_is_caught(monkeypatch):
    """T01."""

    def leaking(segment_ids):
        return torch.ones_like(document_mask(segment_ids))

    monkeypatch.setattr(transformer_module, "document_mask", leaking)
    caught(checks.check_padding)


def test_a_mask_that_lets_a_position_see_the_next_is_caught(monkeypatch):
    """T08."""
    causal = attention_module._causal_mask
    monkeypatch.setattr(
        attention_module, "_causal_mask", lambda n, m, device: causal(n, m, device).roll(1, 1)
    )
    model = make_model(attention="reference")
    tokens = torch.arange(8).view(1, -1)
    before = model(tokens)
    tokens[0, 5] = 40
    assert not torch.equal(model(tokens)[0, :5], before[0, :5])


def resumed_equals_whole(tiny_config, tmp_path):
    """Run the check of the resume tests once: crash at step 8, go on from step 5."""
    fields = {"model__dropout": 0.1, "eval__n_evals": 0, "eval__n_samples": 0}
    whole = outcome(execute(tiny_config(**fields, out=str(tmp_path / "whole"))))
    config = tiny_config(**fields)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(8))
    assert outcome(execute(config)) == whole


def test_the_resume_check_passes_without_a_bug(tiny_config, tmp_path):
    resumed_equals_whole(tiny_config, tmp_path)


def test_random_states_that_are_not_restored_are_caught(tiny_config, tmp_path, monkeypatch):
    """C16: dropout drawn from one stream that starts anew with the process."""
    starts = {"fresh": True}

    def only_once(plan_seed, step, rank):
        if starts.pop("fresh", False):
            return 1
        return int(torch.randint(2**31, ()))  # goes on from wherever the stream is

    def fresh(*args, **kwargs):
        starts["fresh"] = True
        return run_loop(*args, **kwargs)

    run_loop = loop_module.run_loop
    monkeypatch.setattr(execute_module, "run_loop", fresh)
    monkeypatch.setattr(loop_module, "_dropout_seed", only_once)
    caught(resumed_equals_whole, tiny_config, tmp_path)


def test_an_optimizer_that_starts_cold_is_caught(tiny_config, tmp_path, monkeypatch):
    """C14."""
    monkeypatch.setattr(state_module, "load_optimizer", lambda *args: None)
    caught(resumed_equals_whole, tiny_config, tmp_path)


def test_a_log_that_is_only_appended_to_is_caught(tiny_config, tmp_path, monkeypatch):
    """C19."""
    log = session_module.AppendLog
    monkeypatch.setattr(session_module, "AppendLog", lambda path, keep=None: log(path))
    caught(resumed_equals_whole, tiny_config, tmp_path)


def test_a_position_in_the_data_that_starts_anew_is_caught(tiny_config, tmp_path, monkeypatch):
    """C17."""
    stream = loop_module.RowStream
    rows, calls = stream.rows, []

    def from_zero(self, first_row, *args):
        if self not in calls:
            calls[:] = [self]
            self.began = first_row
        return rows(self, first_row - self.began, *args)

    monkeypatch.setattr(stream, "rows", from_zero)
    caught(resumed_equals_whole, tiny_config, tmp_path)


def test_a_checkpoint_that_is_not_verified_is_caught(tiny_config, tmp_path, monkeypatch):
    """C10: changed weights would be trained on without a word."""
    monkeypatch.setattr(load_module, "verify_checkpoint", lambda _: {"files": {}})
    fields = {"eval__n_evals": 0, "eval__n_samples": 0, "checkpoint__keep": 2}
    whole = outcome(execute(tiny_config(**fields, out=str(tmp_path / "whole"))))
    config = tiny_config(**fields)
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(11))
    folder = layout.step_folder(tmp_path / "run/checkpoints", 10)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    assert outcome(execute(config))["model"] != whole["model"]
