"""Numbers with units: spelling by hand, and reading back what was spelt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.errors import ConfigError
from ladderlm.units import (
    format_bytes,
    format_count,
    format_flops,
    format_seconds,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1k"),
        (999_999, "1M"),
        (1234567, "1.23M"),
        (7e9, "7B"),
    ],
)
def test_counts_are_spelt_with_a_metric_letter(n, text):
    assert format_count(n) == text


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1234567, "1.23 MB"), (5e9, "5 GB"), (1e12, "1 TB")]
)
def test_bytes_are_spelt_in_powers_of_1000(n, text):
    assert format_bytes(n) == text


def test_flops_are_spelt_with_an_exponent_without_zeros():
    assert format_flops(1.5e13) == "1.50e13 FLOPs"
    assert format_flops(3.16e9) == "3.16e9 FLOPs"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (9.94, "9.9s"), (59.4, "59s"), (59.6, "1m00s"), (75, "1m15s"), (3725, "1h02m")],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("1000", 1000),
        ("500MB", 500_000_000),
        ("500mb", 500_000_000),
        (" 1.5 GiB ", 3 << 29),
        ("64KiB", 1 << 16),
        (".5kB", 500),
        ("2e3", 2000),
        ("0", 0),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_read_with_their_unit(text, n_bytes):
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "MB", "-1", "-5MB", "1 XB", "1..5", "nan", "inf", "1MB x"])
def test_what_is_not_a_size_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="500MB") as caught:
        parse_bytes(text)
    assert repr(text) in caught.value.what


@given(st.integers(0, 9 * 10**14))
def test_spelt_bytes_read_back_to_three_digits(n):
    assert parse_bytes(format_bytes(n)) == pytest.approx(n, rel=0.006)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_refused(text):
    try:
        n_bytes = parse_bytes(text)
    except ConfigError:
        n_bytes = 0
    assert n_bytes >= 0
