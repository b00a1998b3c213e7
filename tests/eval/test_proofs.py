"""Proofs hold for what is right, and each fails for the bug that it is there for."""

import dataclasses

import numpy as np
import pytest
import torch

from builders import SPLIT_BOS, make_split
from ladderlm.data import stream as stream_module
from ladderlm.data.config import DataConfig
from ladderlm.data.stream import RowStream, fill_rows
from ladderlm.eval import xray as xray_module
from ladderlm.eval.proofs import proof_rows, prove
from ladderlm.model import transformer as transformer_module
from ladderlm.model.attention import document_mask
from ladderlm.training import step as step_module
from ladderlm.training.compute import Compute
from reference.hand_made import make_model

LENGTHS = [9, 4, 23, 6, 3, 12, 5, 8, 17, 4]
NAMES = (
    "labels",
    "loss mask",
    "positions",
    "loss",
    "documents are isolated",
    "nothing looks ahead",
    "padding has no say",
)
LEAKY = tuple(name.replace("are isolated", "leak, as chosen") for name in NAMES)


@pytest.fixture
def proven(tmp_path):
    """Return a builder: the proofs of two rows of a small split, by name."""

    def build(packing="concat", mask_documents=True, attention="sdpa", lengths=LENGTHS):
        folder = tmp_path / f"{packing}{mask_documents}{attention}"
        split = make_split(folder, lengths)
        config = DataConfig(seq_len=12, packing=packing, mask_documents=mask_documents)
        stream = RowStream(split, config, SPLIT_BOS)
        model = make_model(vocab_size=split.n_tokens + 3, attention=attention, dropout=0.1).train()

        def accumulate(model, rows):
            n_rows = max(rows.n_rows // 2, 1)
            return step_module.accumulate_gradients(
                Compute(model), rows, rows.n_targets, n_rows, mask_documents
            )

        rows = proof_rows(stream, 0, 2)
        proofs = prove(model, rows, split, SPLIT_BOS, mask_documents, accumulate)
        assert model.training
        assert all(weight.grad is None for weight in model.parameters())
        return {proof.name: proof for proof in proofs}

    return build


def failed(proofs):
    return [name for name, proof in proofs.items() if not proof.passed]


@pytest.mark.parametrize("packing", ["concat", "best-fit", "padded"])
@pytest.mark.parametrize("attention", ["sdpa", "reference"])
def test_all_proofs_hold_under_every_packing_policy(packing, attention, proven):
    """T01, T06, T08: with numbers that show that something was looked at."""
    proofs = proven(packing, attention=attention)
    assert tuple(proofs) == NAMES
    assert failed(proofs) == []
    isolated, padding = (
        proofs["documents are isolated"].numbers,
        proofs["padding has no say"].numbers,
    )
    assert isolated["n_own_changed"] > 0
    assert isolated["n_elsewhere"] > 0
    assert packing == "padded" or isolated["n_later"] > 0
    assert padding["n_padding"] > 0
    assert proofs["labels"].numbers["shift_1"] == 1.0
    assert proofs["labels"].numbers["shift_0"] < 0.5
    assert proofs["nothing looks ahead"].numbers["n_earlier"] > 0


def test_without_a_mask_the_leak_is_counted_and_everything_else_holds(proven):
    proofs = proven(mask_documents=False)
    assert tuple(proofs) == LEAKY
    assert failed(proofs) == []
    numbers = proofs["documents leak, as chosen"].numbers
    assert 0 < numbers["n_later_changed"] <= numbers["n_later"]
    assert numbers["n_elsewhere_changed"] == 0
    assert numbers["mean_change_nats"] > 0
    assert f"LEAK into {numbers['n_later_changed']:,} of" in proofs[LEAKY[4]].statement


def test_a_leak_that_was_chosen_and_is_not_there_fails(proven, monkeypatch):
    """An unmasked run whose model masks all the same is not what its config says."""
    hidden = transformer_module.Transformer.hidden

    def masked(self, tokens, positions=None, segment_ids=None):
        begins = (tokens == SPLIT_BOS).cumsum(1)
        return hidden(self, tokens, positions, begins)

    monkeypatch.setattr(transformer_module.Transformer, "hidden", masked)
    assert failed(proven(mask_documents=False)) == ["documents leak, as chosen"]


def test_a_broken_document_mask_is_caught(proven, monkeypatch):
    """The mask is broken on purpose: every earlier place of the row is seen."""

    def leaking(segment_ids):
        own = document_mask(segment_ids)
        return torch.ones_like(own).tril() & (segment_ids >= 0)[:, None, :, None] | own

    monkeypatch.setattr(transformer_module, "document_mask", leaking)
    proofs = proven()
    assert failed(proofs) == ["documents are isolated"]
    assert proofs["documents are isolated"].numbers["n_later_changed"] > 0


def test_a_mask_that_lets_the_future_in_is_caught(proven, monkeypatch):
    """T08."""

    def looking_ahead(segment_ids):
        own = document_mask(segment_ids)
        return own | own.transpose(2, 3)

    monkeypatch.setattr(transformer_module, "document_mask", looking_ahead)
    assert failed(proven()) == ["nothing looks ahead"]


@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_shifted_once_too_little_or_too_much_are_caught(shift, proven, monkeypatch):
    """T06: in the data."""

    def shifted(*args):
        batch = fill_rows(*args)
        targets = batch.tokens if shift < 0 else np.roll(batch.targets, -1, axis=1)
        return dataclasses.replace(batch, targets=targets)

    monkeypatch.setattr(stream_module, "fill_rows", shifted)
    assert "labels" in failed(proven())


def test_a_loss_that_shifts_the_labels_again_is_caught(proven, monkeypatch):
    """T06: in the loss."""
    summed, nats = step_module.sum_head_nats, xray_module.token_nats
    monkeypatch.setattr(
        step_module,
        "sum_head_nats",
        lambda h, head, targets, mask, *_: summed(h, head, targets.roll(-1, 1), mask),
    )
    assert "loss" in failed(proven())
    monkeypatch.setattr(step_module, "sum_head_nats", summed)
    monkeypatch.setattr(
        xray_module, "token_nats", lambda h, head, targets, *_: nats(h, head, targets.roll(-1, 1))
    )
    assert "loss" in failed(proven("best-fit"))


@pytest.mark.parametrize("packing", ["concat", "padded"])
def test_a_loss_that_counts_padding_is_caught(packing, proven, monkeypatch):
    """T01."""
    nats = step_module.sum_head_nats
    monkeypatch.setattr(
        step_module, "sum_head_nats", lambda *args: nats(*args[:3], torch.ones_like(args[3]))
    )
    assert "padding has no say" in failed(proven(packing))


def test_a_mask_of_the_loss_that_counts_padding_is_caught(proven, monkeypatch):
    """T01: in the data, where loss and gradient follow it."""

    def all_counted(*args):
        batch = fill_rows(*args)
        return dataclasses.replace(batch, loss_mask=np.ones_like(batch.loss_mask))

    monkeypatch.setattr(stream_module, "fill_rows", all_counted)
    found = failed(proven("padded"))
    assert "loss mask" in found
    assert "padding has no say" in found


def test_positions_that_run_through_are_caught(proven, monkeypatch):
    def running(*args):
        batch = fill_rows(*args)
        return dataclasses.replace(batch, positions=np.indices(batch.tokens.shape)[1])

    monkeypatch.setattr(stream_module, "fill_rows", running)
    assert failed(proven()) == ["positions"]


def test_tokens_that_are_not_those_on_disk_are_caught(proven, monkeypatch):
    """D16: a batch that is consistent with itself and not with the data."""

    def other(*args):
        batch = fill_rows(*args)
        real = batch.segment_ids >= 0
        more = {n: np.where(real, vars(batch)[n] + 1, 0) for n in ("tokens", "targets")}
        return dataclasses.replace(batch, **more)

    monkeypatch.setattr(stream_module, "fill_rows", other)
    proofs = proven()
    assert failed(proofs) == ["labels"]
    assert proofs["labels"].numbers["n_on_disk"] == 0


def test_rows_to_prove_on_hold_several_documents_and_padding_if_there_are_any(tmp_path):
    split = make_split(tmp_path, LENGTHS)
    for packing, mixed in (("concat", True), ("best-fit", True), ("padded", False)):
        stream = RowStream(split, DataConfig(seq_len=12, packing=packing), SPLIT_BOS)
        batch = proof_rows(stream, 0, 1)
        assert (batch.tokens[:1] == stream.rows(0, 1).tokens).all()
        assert (batch.segment_ids.max(axis=1) > 0).any() == mixed
        assert (batch.segment_ids < 0).any()


def test_one_document_alone_is_proven_without_others_to_compare_with(proven):
    proofs = proven(lengths=[5])
    assert failed(proofs) == []
    assert proofs["documents are isolated"].numbers["n_later"] == 0
