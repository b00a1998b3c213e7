"""Sums of losses: they add in any grouping, and means come last."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.metrics import LN_2, LossSum, bits_per_byte

# Multiples of 1/64 add without rounding, so that groupings can be compared exactly.
SUMS = st.builds(
    LossSum,
    st.integers(0, 10**6).map(lambda n: n / 64),
    st.integers(0, 10**6),
)


@given(st.lists(SUMS, max_size=20), st.integers(0, 20))
def test_sums_add_to_the_same_in_any_grouping_and_order(sums, cut):
    whole = sum(sums, LossSum())
    assert sum(sums[cut:], LossSum()) + sum(sums[:cut], LossSum()) == whole
    assert sum(reversed(sums), LossSum()) == whole


def test_a_mean_weighs_tokens_and_not_parts():
    """T02: 1 token at 9 nats and 3 at 1 nat are 3 nats a token, not 5."""
    assert (LossSum(9.0, 1) + LossSum(3.0, 3)).mean == 3.0


def test_nothing_scored_has_no_mean():
    assert math.isnan(LossSum().mean)
    assert math.isnan(bits_per_byte(0.0, 0))


@pytest.mark.parametrize(
    ("nats", "n_bytes", "expected"),
    [(LN_2, 1, 1.0), (8 * LN_2 * 100, 100, 8.0), (0.0, 5, 0.0)],
)
def test_bits_per_byte_by_hand(nats, n_bytes, expected):
    assert bits_per_byte(nats, n_bytes) == pytest.approx(expected, rel=1e-15)
