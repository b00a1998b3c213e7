"""Sums over documents and subsets, their intervals and their file."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.errors import DataError
from ladderlm.eval.config import Policy
from ladderlm.eval.subsets import (
    DocumentLosses,
    bootstrap_interval,
    load_losses,
    save_losses,
    summarise,
)
from ladderlm.metrics import LossSum, bits_per_byte

NAMES = ("Code", "Prose", "Unused")


def make_losses(n=30, seed=0):
    rng = np.random.default_rng(seed)
    n_tokens = rng.integers(0, 40, n)
    return DocumentLosses(
        document_ids=np.arange(n),
        subset_ids=rng.integers(0, 2, n),
        n_bytes=n_tokens * 3,
        n_tokens=n_tokens,
        nats=n_tokens * rng.uniform(1, 3, n),
        eos_nats=rng.uniform(0, 9, n),
        subset_names=NAMES,
    )


def test_bits_per_byte_by_hand():
    assert bits_per_byte(8 * math.log(2), 4) == 2.0
    assert math.isnan(bits_per_byte(1.0, 0))


def test_loss_sums_add_and_divide_late():
    """T02: the mean of sums, never of means."""
    total = LossSum(10.0, 5) + LossSum(1.0, 1) + LossSum()
    assert (total.nats, total.n_tokens) == (11.0, 6)
    assert total.mean == pytest.approx(11 / 6)
    assert math.isnan(LossSum().mean)


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
    assert (low, high) == bootstrap_interval(few.nats, few.n_bytes)
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


def test_equal_documents_have_an_interval_without_width_and_one_has_none():
    low, high = bootstrap_interval(np.full(9, 7.0), np.full(9, 5))
    assert low == pytest.approx(high)
    assert all(math.isnan(x) for x in bootstrap_interval(np.array([7.0]), np.array([5])))


def test_losses_come_back_from_their_file_unchanged(tmp_path):
    losses = make_losses()
    save_losses(tmp_path / "own", losses, Policy(context=8, stride=4), {"step": 3})
    found = load_losses(tmp_path / "own.npz")
    assert found.subset_names == NAMES
    for name in ("document_ids", "subset_ids", "n_bytes", "n_tokens", "nats", "eos_nats"):
        a, b = getattr(found, name), getattr(losses, name)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    beside = json.loads((tmp_path / "own.json").read_text())
    assert beside["step"] == 3
    assert beside["policy"] == {"context": 8, "stride": 4, "n_documents": None}
    summary = summarise(losses)
    assert {key: beside[key] for key in summary} == summary


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "text", "other arrays"])
def test_a_damaged_file_of_losses_is_refused_by_name(damage, tmp_path):
    path = tmp_path / "own.npz"
    save_losses(tmp_path / "own", make_losses(), Policy(context=8, stride=4), {})
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other arrays":
        np.savez(path, something=np.zeros(3))
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"<html>"}[damage])
    with pytest.raises(DataError, match=r"own\.npz"):
        load_losses(path)
