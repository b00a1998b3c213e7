"""Two runs on the same bytes: the sign, the size and the certainty of their difference."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ladderlm.errors import DataError
from ladderlm.eval import compare
from ladderlm.eval.compare import compare_losses, require_same_bytes
from reference.losses import make_losses, with_difference

BASE = make_losses(300, hashed=True)


def test_the_difference_is_that_of_the_two_rates_with_its_sign():
    other = with_difference(BASE, {"Code": 0.2, "Prose": -0.1}, noise=0.01)
    found = compare_losses(other, BASE, ("new", "old"))
    assert (found["run"], found["against"], found["n_documents"]) == ("new", "old", 300)
    rows = [found["micro"], found["macro"], *found["subsets"].values()]
    for row in rows:
        by_rates = row["bits_per_byte"] - row["against_bits_per_byte"]
        assert row["difference"] == pytest.approx(by_rates, abs=1e-12)
        low, high = row["difference_95"]
        assert low < row["difference"] < high
    for name, truth in (("Code", 0.2), ("Prose", -0.1)):
        row = found["subsets"][name]
        assert row["difference_95"][0] < truth < row["difference_95"][1]
        assert row["p_holm"] < 0.01
    naive = BASE.n_bytes[BASE.subset_ids == 0].sum()
    assert found["subsets"]["Code"]["n_bytes"] == naive
    code, prose = (found["subsets"][name]["difference"] for name in ("Code", "Prose"))
    assert found["macro"]["difference"] == pytest.approx((code + prose) / 2)


def test_the_other_way_round_gives_the_same_with_the_other_sign():
    other = with_difference(BASE, {"Code": 0.05}, noise=0.1)
    one, two = compare_losses(other, BASE), compare_losses(BASE, other)
    for key in ("micro", "macro"):
        assert one[key]["difference"] == pytest.approx(-two[key]["difference"])
        low, high = one[key]["difference_95"]
        assert two[key]["difference_95"] == pytest.approx([-high, -low])
        assert one[key]["p"] == two[key]["p"]


def test_pairing_sees_what_two_intervals_apart_do_not():
    """Documents differ by bits, runs by hundredths: only the paired difference is small."""
    from ladderlm.eval.subsets import summarise

    other = with_difference(BASE, {"Code": 0.02, "Prose": 0.02}, noise=0.01)
    apart = [summarise(x)["bits_per_byte_95"] for x in (BASE, other)]
    assert apart[0][1] > apart[1][0]  # they overlap
    low, high = compare_losses(other, BASE)["micro"]["difference_95"]
    assert 0 < low < 0.02 < high


def test_a_run_against_itself_differs_nowhere():
    found = compare_losses(BASE, BASE)
    for row in (found["micro"], *found["subsets"].values()):
        assert (row["difference"], row["difference_95"], row["p"]) == (0.0, [0.0, 0.0], 1.0)


def test_looking_at_many_subsets_raises_each_p(monkeypatch):
    """22 subsets without any effect: some p alone is small, none is after the correction."""
    monkeypatch.setattr(compare, "N_DRAWS", 999)
    rng = np.random.default_rng(0)
    names = tuple(f"subset {i}" for i in range(22))
    n = 22 * 30
    base = replace(
        make_losses(n, hashed=True),
        subset_ids=np.arange(n) % 22,
        subset_names=names,
        n_bytes=rng.integers(50, 150, n),
    )
    alone = corrected = 0
    for seed in range(4):
        found = compare_losses(with_difference(base, {}, 0.1, seed), base)
        rows = found["subsets"].values()
        assert all(row["p_holm"] >= row["p"] for row in rows)
        alone += sum(row["p"] < 0.05 for row in rows)
        corrected += sum(row["p_holm"] < 0.05 for row in rows)
    assert alone >= 2  # 4.4 expected
    assert corrected <= 1  # 0.2 expected


def test_few_documents_of_a_subset_give_a_difference_without_interval():
    base = replace(BASE, subset_ids=np.where(np.arange(300) < 3, 2, BASE.subset_ids))
    found = compare_losses(with_difference(base, {"Unused": 1.0}, 0.01), base)
    row = found["subsets"]["Unused"]
    assert row["difference"] == pytest.approx(1.0, abs=0.1)
    assert (row["difference_95"], row["p"], row["p_holm"]) == (None, None, None)
    assert found["macro"]["difference_95"] is None  # one of its parts is not known
    assert found["micro"]["difference_95"] is not None


def test_a_subset_of_empty_documents_has_no_rate_and_no_row():
    base = replace(
        BASE,
        subset_ids=np.where(np.arange(300) < 9, 2, BASE.subset_ids),
        n_bytes=np.where(np.arange(300) < 9, 0, BASE.n_bytes),
    )
    found = compare_losses(base, base)
    assert "Unused" not in found["subsets"]
    assert math.isfinite(found["macro"]["bits_per_byte"])


def test_another_tokenizer_on_the_same_bytes_is_compared():
    other = replace(BASE, n_tokens=2 * BASE.n_tokens, nats=BASE.nats * 0.9)
    assert compare_losses(other, BASE)["micro"]["difference"] < 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text_hashes": None}, "the texts that old was scored on are not recorded"),
        ({"text_hashes": BASE.text_hashes + (np.arange(300) >= 7)}, "293 of 300 documents hold"),
        ({"n_bytes": BASE.n_bytes + (np.arange(300) == 9)}, "1 of 300 documents hold another text"),
        ({"subset_names": ("Prose", "Code", "Unused")}, "document 0 is in subset"),
    ],
)
def test_other_texts_are_refused_with_the_reason(changes, says):
    with pytest.raises(DataError) as caught:
        compare_losses(BASE, replace(BASE, **changes), ("new", "old"))
    assert says in caught.value.what
    assert "new and old cannot be compared" in caught.value.what
    assert caught.value.fix


def test_another_number_of_documents_is_refused():
    fewer = make_losses(20, hashed=True)
    with pytest.raises(DataError, match="one run was scored on 300 documents, the other on 20"):
        require_same_bytes(BASE, fewer)
