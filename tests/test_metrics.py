"""Bits per byte, by hand."""

import math

import pytest

from ladderlm.metrics import LN_2, bits_per_byte


def test_nothing_scored_has_no_mean():
    assert math.isnan(bits_per_byte(0.0, 0))


@pytest.mark.parametrize(
    ("nats", "n_bytes", "expected"),
    [(LN_2, 1, 1.0), (8 * LN_2 * 100, 100, 8.0), (0.0, 5, 0.0)],
)
def test_bits_per_byte_by_hand(nats, n_bytes, expected):
    assert bits_per_byte(nats, n_bytes) == pytest.approx(expected, rel=1e-15)
