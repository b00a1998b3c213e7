"""The search for a micro-batch, with a GPU that is made up."""

from dataclasses import replace

import pytest
import torch

from ladderlm.dist import ALONE
from ladderlm.errors import ConfigError
from ladderlm.run import micro_batch as micro_batch_module
from ladderlm.run.execute import execute
from ladderlm.run.micro_batch import fit_micro_batch
from ladderlm.run.settle import settle
from ladderlm.training.step import accumulate_gradients


@pytest.fixture
def on_gpu(tiny_config, monkeypatch):
    """Give the answer for memory that holds so many rows; passes really run, on the CPU."""
    to = torch.nn.Module.to
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, where: self if where == "cuda" else to(self, where)
    )

    def answer(room, **fields):
        tried = []

        def limited(compute, batch, *args):
            tried.append(batch.n_rows)
            if batch.n_rows > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return accumulate_gradients(compute, batch, *args)

        monkeypatch.setattr(micro_batch_module, "accumulate_gradients", limited)
        config = tiny_config(model__vocab_size=320, execution__fit_micro_batch=True, **fields)
        config = replace(config, execution=replace(config.execution, device="cuda"))
        return settle(config)[0].execution, tried

    return answer


@pytest.mark.parametrize(("room", "tries"), [(9, [8]), (8, [8]), (5, [8, 4]), (1, [8, 4, 2, 1])])
def test_rows_are_halved_until_they_fit(room, tries, on_gpu):
    found, tried = on_gpu(room)
    assert tried == tries
    assert found.micro_batch_seqs == tries[-1]
    assert not found.fit_micro_batch  # the answer stands in config.json from now on


def test_a_row_that_does_not_fit_is_said_with_what_helps(on_gpu):
    with pytest.raises(ConfigError, match="one row of 32 tokens does not fit") as caught:
        on_gpu(0)
    assert "recompute" in str(caught.value)


def test_it_is_refused_on_a_cpu_and_changes_no_name(tiny_config):
    config = tiny_config(execution__fit_micro_batch=True)
    assert config.run_id == tiny_config().run_id
    with pytest.raises(ConfigError, match=r"set execution\.micro_batch_seqs"):
        execute(config)


def test_a_run_that_does_not_ask_keeps_its_rows(tiny_config):
    config = tiny_config(execution__micro_batch_seqs=3)
    assert fit_micro_batch(config, ALONE) == 3
