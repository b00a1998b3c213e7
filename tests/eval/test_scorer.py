"""The model as the meter sees it: chosen targets, in order, without rounding of the logits."""

import numpy as np
import pytest
import torch

from ladderlm.eval import scorer as scorer_module
from ladderlm.eval.scorer import TransformerScorer
from reference.hand_made import make_model, weights_of
from reference.transformer import reference_logits, reference_nats


def make_rows(seed=0):
    rng = np.random.default_rng(seed)
    tokens, targets = (rng.integers(0, 50, (3, 11)) for _ in range(2))
    return tokens, targets, rng.random((3, 11)) < 0.6


def test_the_chosen_targets_come_in_row_major_order_and_equal_the_slow_twin():
    model = make_model(n_layers=1)
    tokens, targets, scored = make_rows()
    nats = TransformerScorer(model).nats(tokens, targets, scored)
    assert nats.dtype == np.float64
    weights, naive = weights_of(model), []
    for row in range(3):
        logits = reference_logits(weights, model.config, tokens[row].tolist())
        own = reference_nats(logits, targets[row].tolist())
        naive += [own[place] for place in range(11) if scored[row, place]]
    np.testing.assert_allclose(nats, naive, rtol=1e-5)  # float32 against float64


def test_no_chosen_target_gives_no_number():
    tokens, targets, scored = make_rows()
    assert TransformerScorer(make_model(n_layers=1)).nats(tokens, targets, scored & False).size == 0


def test_the_head_in_pieces_gives_the_same_numbers(monkeypatch):
    model = make_model(n_layers=1).double()
    rows = make_rows()
    whole = TransformerScorer(model).nats(*rows)
    monkeypatch.setattr(scorer_module, "LOGITS_IN_MEMORY", 150)  # three positions at once
    np.testing.assert_allclose(TransformerScorer(model).nats(*rows), whole, rtol=1e-13)


def test_logits_of_a_bfloat16_model_are_not_rounded_to_bfloat16():
    """A logit near 30 in bfloat16 is known to 0.06 at best; here the softmax sees it whole."""
    model = make_model(n_layers=1)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    tokens, targets, scored = make_rows()
    nats = TransformerScorer(model).nats(tokens, targets, scored)
    with torch.inference_mode():
        hidden = model.hidden(torch.from_numpy(tokens))
        assert hidden.dtype == torch.bfloat16
        logits = hidden.double() @ model.output.weight.double().T
        whole = -logits.log_softmax(-1).gather(-1, torch.from_numpy(targets)[..., None])[..., 0]
        rounded = -model(torch.from_numpy(tokens)).log_softmax(-1)
        rounded = rounded.gather(-1, torch.from_numpy(targets)[..., None])[..., 0]
    np.testing.assert_allclose(nats, whole.numpy()[scored], rtol=2e-6)
    assert np.abs(rounded.numpy()[scored] - nats).max() > 1e-3  # what rounding would have done


@pytest.mark.parametrize("vocab_size", [50, 77])
def test_a_scorer_says_what_it_can_read(vocab_size):
    scorer = TransformerScorer(make_model(vocab_size=vocab_size, max_seq_len=32))
    assert (scorer.vocab_size, scorer.max_context) == (vocab_size, 32)
