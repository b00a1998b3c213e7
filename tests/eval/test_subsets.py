"""Sums over documents and subsets, their intervals and their file."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.eval.subsets import (
    PILE_SUBSETS,
    DocumentLosses,
    bootstrap_interval,
    official_names,
    summarise,
    text_clusters,
)
from reference.losses import NAMES, make_losses


@settings(max_examples=25)
@given(n=st.integers(1, 40), seed=st.integers(0, 1000))
def test_the_summary_equals_naive_sums_per_subset(n, seed):
    losses = make_losses(n, seed)
    summary = summarise(losses, with_interval=False)
    rows = {"all": summary, **summary["subsets"]}
    for name, row in rows.items():
        own = [i for i in range(n) if name in ("all", NAMES[losses.subset_ids[i]])]
        nats = sum(float(losses.nats[i]) for i in own)
        eos_nats = sum(float(losses.eos_nats[i]) for i in own)
        n_tokens, n_bytes = (sum(int(a[i]) for i in own) for a in (losses.n_tokens, losses.n_bytes))
        assert row["n_documents"] == len(own)
        assert (row["n_tokens"], row["n_bytes"]) == (n_tokens, n_bytes)
        assert row["nats"] == pytest.approx(nats)
        assert row["eos_nats"] == pytest.approx(eos_nats)
        assert row["loss"] == pytest.approx((nats + eos_nats) / (n_tokens + len(own)))
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        if n_bytes:  # the nats of EOS are no part of it
            assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes)
        else:
            assert math.isnan(row["bits_per_byte"])
    rates = [r["bits_per_byte"] for r in summary["subsets"].values() if r["n_bytes"]]
    if rates:
        assert summary["macro_bits_per_byte"] == pytest.approx(sum(rates) / len(rates))
    assert "Unused" not in summary["subsets"]


def test_subsets_add_up_to_the_whole():
    summary = summarise(make_losses(), with_interval=False)
    for key in ("nats", "eos_nats", "n_tokens", "n_bytes", "n_documents"):
        parts = sum(row[key] for row in summary["subsets"].values())
        assert parts == pytest.approx(summary[key])


def test_the_bootstrap_interval_is_fixed_holds_the_estimate_and_narrows():
    few, many = make_losses(20), make_losses(2000)
    low, high = bootstrap_interval(few.nats, few.n_bytes)
    assert [low, high] == bootstrap_interval(few.nats, few.n_bytes)
    assert low < summarise(few)["bits_per_byte"] < high
    narrow = bootstrap_interval(many.nats, many.n_bytes)
    assert narrow[1] - narrow[0] < (high - low) / 4


def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        n_bytes = rng.integers(50, 150, 60)
        nats = n_bytes * rng.normal(1.0, 0.3, 60)  # truth: 1 / ln 2 bits per byte
        low, high = bootstrap_interval(nats, n_bytes)
        hits += low <= 1 / math.log(2) <= high
    assert 51 <= hits <= 60  # 57 expected, standard deviation 1.7


def test_equal_documents_have_an_interval_without_width_and_few_have_none():
    low, high = bootstrap_interval(np.full(9, 7.0), np.full(9, 5))
    assert low == pytest.approx(high)
    assert bootstrap_interval(np.arange(4.0), np.full(4, 5)) is None


def test_each_subset_has_its_own_interval_where_it_has_documents_enough():
    losses = make_losses(12)
    losses = replace(losses, subset_ids=np.array([0] * 4 + [1] * 8))
    rows = summarise(losses)["subsets"]
    assert rows["Code"]["bits_per_byte_95"] is None
    low, high = rows["Prose"]["bits_per_byte_95"]
    assert low < rows["Prose"]["bits_per_byte"] < high


def test_copies_of_a_text_are_one_observation():
    """An interval must not narrow because a text stands in the split many times."""
    once = replace(make_losses(20), text_hashes=np.arange(20, dtype=np.uint64))
    arrays = {n: np.repeat(a, 5) for n, a in vars(once).items() if n != "subset_names"}
    often = DocumentLosses(**arrays, subset_names=NAMES)
    assert len(np.unique(text_clusters(often))) == 20
    narrow, wide = (summarise(x)["bits_per_byte_95"] for x in (often, once))
    assert narrow == pytest.approx(wide)
    alone = summarise(replace(often, text_hashes=None))["bits_per_byte_95"]
    assert alone[1] - alone[0] < 0.6 * (wide[1] - wide[0])


def test_the_official_names_are_the_22_of_the_pile():
    assert len(set(PILE_SUBSETS)) == len(PILE_SUBSETS) == 22
    found = official_names(["Github", "Own", "ArXiv"])
    assert found["occurring"] == ["ArXiv", "Github"]
    assert found["unknown"] == ["Own"]
    assert set(found["missing"]) == set(PILE_SUBSETS) - {"ArXiv", "Github"}
