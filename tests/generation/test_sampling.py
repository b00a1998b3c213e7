"""Temperature, top-k and top-p on small distributions, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.errors import ConfigError
from ladderlm.generation.sampling import (
    SamplingConfig,
    next_token_probabilities,
    penalise_repetition,
    sample_tokens,
)

LOGITS = torch.tensor([[math.log(0.2), math.log(0.5), math.log(0.05), math.log(0.25)]])


def kept(logits=LOGITS, **fields):
    """Give {id: probability} of what is left."""
    config = SamplingConfig(**{"temperature": 1.0, "top_p": None, **fields})
    probabilities, ids = next_token_probabilities(logits, config)
    pairs = zip(ids[0].tolist(), probabilities[0].tolist(), strict=True)
    return {token: pytest.approx(p, abs=1e-6) for token, p in pairs if p > 0}


def test_without_filters_the_softmax_is_unchanged():
    assert kept() == {0: 0.2, 1: 0.5, 2: 0.05, 3: 0.25}


def test_temperature_divides_the_logits():
    squares = {0: 0.04, 1: 0.25, 2: 0.0025, 3: 0.0625}
    total = sum(squares.values())
    assert kept(temperature=0.5) == {token: p / total for token, p in squares.items()}


def test_top_k_keeps_the_likeliest_and_renormalises():
    assert kept(top_k=1) == {1: 1.0}
    assert kept(top_k=2) == {1: 2 / 3, 3: 1 / 3}
    assert set(kept(top_k=99)) == {0, 1, 2, 3}


def test_top_p_drops_a_token_when_the_mass_before_it_exceeds_p():
    assert kept(top_p=0.3) == {1: 1.0}
    assert kept(top_p=0.51) == {1: 2 / 3, 3: 1 / 3}
    assert set(kept(top_p=0.8)) == {0, 1, 3}
    assert set(kept(top_p=1.0)) == {0, 1, 2, 3}


def test_top_p_counts_the_mass_after_temperature_and_before_top_k():
    assert kept(top_p=0.51, top_k=1) == {1: 1.0}
    assert set(kept(top_p=0.8, temperature=0.5)) == {1, 3}


def test_min_p_keeps_what_is_a_share_as_likely_as_the_likeliest():
    assert kept(min_p=0.45) == {1: 2 / 3, 3: 1 / 3}
    assert set(kept(min_p=0.39)) == {0, 1, 3}
    assert kept(min_p=1.0) == {1: 1.0}
    assert set(kept(min_p=0.0)) == {0, 1, 2, 3}
    assert set(kept(min_p=0.3, temperature=0.5)) == {1}
    assert set(kept(min_p=0.4, top_k=2)) == {1, 3}


def test_a_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0], [1.0, 1.0, 0.0, 3.0]])
    seen = torch.tensor([[True, True, False, False], [False, False, True, True]])
    found = penalise_repetition(logits, seen, 2.0)
    assert found.tolist() == [[1.0, -4.0, 2.0, -2.0], [1.0, 1.0, 0.0, 1.5]]
    assert torch.equal(penalise_repetition(logits, seen, 1.0), logits)


@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    temperature=st.floats(0.01, 10),
    top_p=st.none() | st.floats(0.01, 1.0),
    top_k=st.none() | st.integers(1, 15),
    min_p=st.none() | st.floats(0, 1),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_a_drawn_token_is_always_one_that_was_kept(
    logits, temperature, top_p, top_k, min_p, uniform
):
    config = SamplingConfig(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    row = torch.tensor([logits])
    probabilities, ids = next_token_probabilities(row, config)
    assert float(probabilities.sum()) == pytest.approx(1.0)
    drawn = int(sample_tokens(row, config, torch.tensor([uniform], dtype=torch.float64)))
    assert drawn in ids[0][probabilities[0] > 0].tolist()
    untouched = torch.softmax(row[0].double() / temperature, -1)
    assert untouched[ids[0][0]] == untouched.max()
    assert probabilities[0][0] > 0
    if top_k is not None:
        assert int((probabilities > 0).sum()) <= top_k


def test_a_uniform_number_picks_by_cumulated_mass():
    config = SamplingConfig(temperature=1.0, top_p=None)
    uniforms = torch.tensor(
        [0.0, 0.49, 0.51, 0.74, 0.76, 0.94, 0.96, 1 - 1e-16], dtype=torch.float64
    )
    drawn = sample_tokens(LOGITS.expand(8, -1), config, uniforms)
    assert drawn.tolist() == [1, 1, 3, 3, 0, 0, 2, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        {"seed": -1},
    ],
)
def test_options_out_of_range_are_refused_by_name(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        SamplingConfig(**fields)
