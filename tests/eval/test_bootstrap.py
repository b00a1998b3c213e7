"""Intervals and p-values of ratios: they cover what they say, and look at each text once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.eval.bootstrap import MIN_CLUSTERS, bootstrap_ratio, holm, mean_of


def make_documents(n, rng, truth=0.0):
    """Sizes over two orders of magnitude and heavy-tailed differences, as in real corpora."""
    n_bytes = np.exp(rng.normal(7, 1.2, n)).astype(np.int64) + 1
    return n_bytes * (0.02 * rng.standard_t(4, n) + truth), n_bytes


def test_the_same_documents_give_the_same_interval_around_the_estimate():
    top, bottom = make_documents(40, np.random.default_rng(0), 0.01)
    one, two = (bootstrap_ratio(top, bottom) for _ in range(2))
    assert one.interval() == two.interval()
    low, high = one.interval()
    assert one.estimate == pytest.approx(top.sum() / bottom.sum())
    assert low < one.estimate < high
    assert one.interval(0.5)[0] > low
    assert bootstrap_ratio(top, bottom, seed=1).interval() != one.interval()


def test_the_standard_error_is_that_of_many_samples():
    rng = np.random.default_rng(1)
    samples = [make_documents(1000, rng) for _ in range(300)]
    ratios = np.array([top.sum() / bottom.sum() for top, bottom in samples])
    errors = [bootstrap_ratio(top, bottom, n_draws=1).error for top, bottom in samples]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(ratios.std(), rel=0.15)


def coverage(n, n_studies, n_draws, seed=0):
    """Count how often a 95 % interval holds the truth and p < 0.05 where there is no effect."""
    rng = np.random.default_rng(seed)
    n_covered = n_false = 0
    for _ in range(n_studies):
        top, bottom = make_documents(n, rng, 0.01)
        low, high = bootstrap_ratio(top, bottom, n_draws=n_draws).interval()
        n_covered += low <= 0.01 <= high
        n_false += bootstrap_ratio(top - 0.01 * bottom, bottom, n_draws=n_draws).p_value() < 0.05
    return n_covered / n_studies, n_false / n_studies


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered, false = coverage(30, 120, 400)
    assert covered >= 0.89  # 0.95 expected, standard deviation 0.02
    assert false <= 0.11


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 8, 20, 60, 300])
def test_the_interval_covers_the_truth_for_few_and_many_documents(n):
    covered, false = coverage(n, 1000, 999)
    print(f"{n} documents: {covered:.3f} covered, {false:.3f} false alarms")
    assert 0.92 <= covered <= 0.98
    assert false <= 0.08


@settings(max_examples=25)
@given(n=st.integers(MIN_CLUSTERS, 40), truth=st.floats(-0.03, 0.03), seed=st.integers(0, 99))
def test_p_is_below_a_level_just_where_the_interval_of_that_level_leaves_zero_out(n, truth, seed):
    boot = bootstrap_ratio(*make_documents(n, np.random.default_rng(seed), truth), n_draws=999)
    low, high = boot.interval(0.95)
    p = boot.p_value()
    if abs(p - 0.05) > 0.003:  # the quantile lies between two resamples
        assert (p < 0.05) == (low > 0 or high < 0)


def test_fewer_than_the_least_number_of_texts_have_no_interval():
    top, bottom = make_documents(MIN_CLUSTERS - 1, np.random.default_rng(0))
    few = bootstrap_ratio(top, bottom)
    assert (few.interval(), few.p_value()) == (None, None)
    copies = np.repeat(np.arange(MIN_CLUSTERS - 1), 100)
    again = bootstrap_ratio(np.repeat(top, 100), np.repeat(bottom, 100), copies)
    assert (again.interval(), again.estimate) == (None, pytest.approx(few.estimate))


def test_copies_in_one_cluster_count_once():
    top, bottom = make_documents(30, np.random.default_rng(3))
    once = bootstrap_ratio(top, bottom)
    clusters = np.repeat(np.arange(30), 7)
    often = bootstrap_ratio(np.repeat(top, 7), np.repeat(bottom, 7), clusters)
    assert often.interval() == pytest.approx(once.interval())
    apart = bootstrap_ratio(np.repeat(top, 7), np.repeat(bottom, 7)).interval()
    assert apart[1] - apart[0] < 0.6 * (once.interval()[1] - once.interval()[0])


def test_no_difference_at_all_has_p_one_and_an_interval_without_width():
    nothing = bootstrap_ratio(np.zeros(20), np.arange(1, 21))
    assert (nothing.estimate, nothing.p_value(), nothing.interval()) == (0.0, 1.0, [0.0, 0.0])
    everywhere = bootstrap_ratio(0.3 * np.arange(1, 21), np.arange(1, 21))
    assert everywhere.interval() == pytest.approx([0.3, 0.3])
    assert everywhere.p_value() == pytest.approx(1 / 2001)


def test_what_is_not_a_number_gets_no_interval():
    top, bottom = make_documents(20, np.random.default_rng(0))
    top[3] = np.nan
    assert bootstrap_ratio(top, bottom).interval() is None
    assert bootstrap_ratio(np.zeros(20), np.zeros(20, dtype=np.int64)).p_value() is None


def test_the_mean_of_ratios_has_the_interval_of_independent_parts():
    rng = np.random.default_rng(5)
    parts = [bootstrap_ratio(*make_documents(50, rng, 0.01 * k), seed=k) for k in range(4)]
    mean = mean_of(parts)
    assert mean.estimate == pytest.approx(np.mean([part.estimate for part in parts]))
    assert mean.error == pytest.approx(np.sqrt(sum(part.error**2 for part in parts)) / 4)
    low, high = mean.interval()
    widths = [part.interval()[1] - part.interval()[0] for part in parts]
    assert 0.3 < (high - low) / np.mean(widths) < 0.75  # a half, for four alike
    few = bootstrap_ratio(np.ones(2), np.ones(2, dtype=np.int64))
    assert mean_of([*parts, few]).interval() is None
    assert mean_of([]).interval() is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_is_the_largest_of_the_stepwise_products(p_values):
    """By the definition: p_(k) becomes max over j <= k of min(1, (m - j + 1) p_(j))."""
    given_ones = sorted(p for p in p_values if p is not None)
    m = len(given_ones)
    for p, corrected in zip(p_values, holm(p_values), strict=True):
        if p is None:
            assert corrected is None
            continue
        rank = given_ones.index(p)
        products = [min(1.0, (m - j) * q) for j, q in enumerate(given_ones[: rank + 1])]
        assert corrected >= max(products) - 1e-15  # ties: the first of them is multiplied most
        assert p <= corrected <= 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.5, None]) == [None, 0.5, None]
    assert holm([]) == []
