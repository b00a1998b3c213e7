"""The loss of every token, as training would count it."""

import numpy as np
import pytest
import torch

from ladderlm.errors import DataError
from ladderlm.eval import xray
from ladderlm.eval.xray import fresh_model, token_losses
from reference.hand_made import make_batch, make_model

ROWS = [[[1, 5, 9, 7, 2], [1, 7, 2]], [[1, 8, 8, 4, 11, 2]], [[1, 3, 2], [1, 4, 2], [1, 5, 6, 2]]]


@pytest.mark.parametrize("mask_documents", [True, False])
def test_losses_are_those_of_each_document_alone(mask_documents):
    """Under the mask a row is as good as its documents one by one; without it it is not."""
    model, batch = make_model(), make_batch(ROWS, 8)
    found = token_losses(model, batch, mask_documents)
    assert found.shape == (3, 8)
    alone = []
    for row in ROWS:
        for ids in row:
            logits = model(torch.tensor([ids[:-1]])).detach().double()[0]
            targets = torch.tensor(ids[1:])
            alone.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    equal = np.isclose(found[batch.loss_mask], torch.cat(alone).numpy(), atol=1e-5)
    assert equal.all() == mask_documents
    assert equal[0]  # the first document of a row sees nobody


def test_parts_of_a_batch_give_the_same_losses(monkeypatch):
    model, batch = make_model(), make_batch(ROWS, 8)
    whole = token_losses(model, batch, True)
    monkeypatch.setattr(xray, "LOGITS_AT_ONCE", 8 * 50 * 2)
    assert np.allclose(token_losses(model, batch, True), whole, atol=1e-6)
    monkeypatch.setattr(xray, "LOGITS_AT_ONCE", 1)
    assert np.allclose(token_losses(model, batch, True), whole, atol=1e-6)


def test_a_fresh_model_is_the_same_each_time_and_has_opinions():
    batch = make_batch(ROWS, 8)
    losses = [token_losses(fresh_model(50, 8), batch, True) for _ in range(2)]
    assert (losses[0] == losses[1]).all()
    assert losses[0][batch.loss_mask].std() > 0.1


def test_ids_of_another_vocabulary_are_refused():
    """T17."""
    with pytest.raises(DataError, match="a batch holds 60"):
        token_losses(make_model(), make_batch([[[1, 60, 2]]], 4), True)
