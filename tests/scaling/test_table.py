"""Tables: rows are chosen by clauses, and every slip in a file is named with its line."""

import itertools

import numpy as np
import pytest

from ladderlm.errors import DataError
from ladderlm.scaling.fit import fit
from ladderlm.scaling.table import group_close, table_of

ROWS = {
    "arch": ["a=1", "b", "b", "c"],
    "params": [1e6, 2e6, 3e6, 4e6],
    "kind": ["x", "x", "y", "y"],
}
CLAUSES = {
    "params>=2e6": [0, 1, 1, 1],
    "params=1000000|4e6": [1, 0, 0, 1],
    "params!=4e6,kind=y": [0, 0, 1, 0],
    "arch=a=1": [1, 0, 0, 0],
    " kind = x , params < 2e6 ": [1, 0, 0, 0],
    "params<=3e6,params>1e6": [0, 1, 1, 0],
}


@pytest.mark.parametrize("clause", CLAUSES)
def test_clauses_choose_rows(clause):
    assert table_of(ROWS).matching(clause).tolist() == [bool(v) for v in CLAUSES[clause]]


@pytest.mark.parametrize(
    ("clause", "says"),
    [
        ("paramz=1", "did you mean params"),
        ("kind=z", "values of kind: x, y"),
        ("kind", "a condition must be a column, one of = != < <= > >=, and a value, got 'kind'"),
    ],
)
def test_a_clause_that_chooses_nothing_is_named(clause, says):
    with pytest.raises(DataError) as caught:
        table_of(ROWS).matching(clause)
    assert says in str(caught.value)


def power_rows(n=6):
    return [(1e18 * 4**i, 2 + 1.5 * 4 ** (-0.1 * i)) for i in range(n)]


FORMS = {
    "chinchilla of one size": (
        "chinchilla",
        {"params": [1e6] * 7, "tokens": [1e7 * 2**i for i in range(7)]},
        "params has 1 different value",
    ),
    "joint of one arm": ("joint", {"arm": ["a"] * 7}, "one arm: a"),
    "joint without arms": ("joint", {}, "no column 'arm'"),
    "isoflop of one budget": (
        "isoflop",
        {"params": [1e6 * 2**i for i in range(7)], "tokens": [1e9 / 2**i for i in range(7)]},
        "budgets have an optimum",
    ),
    "powerlaw-nd of tied columns": (
        "powerlaw-nd",
        {"params": [1e6 * 2**i for i in range(7)], "tokens": [2e7 * 2**i for i in range(7)]},
        "do not vary independently",
    ),
}


@pytest.mark.parametrize(("form", "columns", "says"), FORMS.values(), ids=FORMS)
def test_what_a_form_cannot_be_fitted_to_is_named(form, columns, says):
    flops, loss = zip(*power_rows(7), strict=True)
    if form == "isoflop":
        flops = [1e18] * 7
    with pytest.raises(DataError) as caught:
        fit({"flops": flops, "loss": loss, **columns}, form)
    assert says in str(caught.value)


def test_rows_left_out_are_counted_with_their_reason():
    flops, loss = zip(*power_rows(), strict=True)
    table = {"flops": [*flops, 1e19], "loss": [*loss, 9.0], "status": ["good"] * 6 + ["diverged"]}
    found = fit(table, where=("status=good",), draws=100)
    assert found.excluded == {"not status=good": 1}
    assert found.card["excluded"] == found.excluded


def test_budgets_left_out_for_one_reason_are_added_up():
    rows = []
    for c, n_sizes in ((1e17, 3), (1e18, 7), (1e19, 7), (1e20, 2)):
        for k in range(n_sizes):
            params = 1e8 * (c / 1e18) ** 0.5 * 2.0 ** (k - n_sizes // 2)
            rows.append((params, c / 6 / params, c, 3 + 0.02 * (k - n_sizes // 2) ** 2))
    columns = zip(("params", "tokens", "flops", "loss"), zip(*rows, strict=True), strict=True)
    found = fit(dict(columns), "isoflop", draws=100)
    assert found.excluded == found.card["excluded"] == {"fewer than 4 sizes": 5}
    assert found.n_used == 14


def joint_rows(rungs):
    """Two arms of two seeds, one a fifth better, on rungs of these names by rising compute."""
    found = []
    for (i, rung), arm, seed in itertools.product(enumerate(rungs), ("base", "new"), (1, 2)):
        params = 1e6 * 2.0**i * (1.03 if arm == "new" else 1.0)
        flops = 6 * params * 20 * params
        loss = 1.5 + 2 * ((1.25 if arm == "new" else 1.0) * flops / 1e14) ** -0.1 + 1e-4 * seed
        found.append({"arm": arm, "rung": rung, "seed": seed, "params": params})
        found[-1] |= {"tokens": 20 * params, "loss": loss}
    return {name: [row[name] for row in found] for name in found[0]}


@pytest.mark.parametrize("rungs", [(8, 9, 10, 11, 12), ("tiny", "small", "mid", "big", "huge")])
def test_arms_are_compared_rung_by_rung_in_order_of_compute_without_flops(rungs):
    table = joint_rows(rungs)
    found = fit(table, "joint", draws=100).details["comparisons"]["new"]
    assert [rung["rung"] for rung in found["rungs"]] == [0, 1, 2, 3, 4]
    assert np.all(np.diff([rung["x"] for rung in found["rungs"]]) > 0)
    assert found["pooled"]["value"] == pytest.approx(1.25, rel=0.02)
    flops = [6 * n * d for n, d in zip(table["params"], table["tokens"], strict=True)]
    assert fit(table | {"flops": flops}, "joint", draws=100).details["comparisons"]["new"] == found


def test_six_n_d_is_never_put_in_silently():
    n = np.array([1e6, 1e7, 1e8, 1e6, 1e7, 1e8])
    d = n * np.array([10, 10, 10, 100, 100, 100])
    loss = 1.5 + 5 * n**-0.1 + 9 * d**-0.1
    found = fit({"params": n, "tokens": d, "loss": loss}, "overtraining", draws=100)
    assert any("C = 6 N D is used" in warning for warning in found.warnings)


def test_a_slope_that_grows_is_found_by_the_quadratic_form_alone():
    """The top rung of ln L = ln 3 - 0.06 u - 0.008 u^2 / 2, from those below it, by both forms."""
    flops = 1e12 * 10 ** (np.repeat(np.arange(6), 2) / 2)
    u = np.log(flops / 1e12)
    noise = 1 + 1e-4 * np.sin(np.arange(12) * 7)
    table = {"flops": flops, "loss": 3 * np.exp(-0.06 * u - 0.004 * u**2) * noise}
    bent, power = fit(table, "quadratic", draws=100), fit(table, "power", draws=100)
    assert bent.parameters["b"] == pytest.approx(0.008, rel=0.02)
    assert bent.parameters["C_ref"] == pytest.approx(np.exp(np.log(flops).mean()))
    low, high = bent.intervals["b"]
    assert 0 < low < high < 0.01
    assert bent.identified == {}
    assert bent.holdout[0]["held"] == power.holdout[0]["held"] == "top rung"
    assert abs(bent.holdout[0]["worst_error"]) < 0.002
    assert power.holdout[0]["worst_error"] > 0.02


def test_the_library_is_one_name_away():
    import ladderlm as ll

    flops, loss = zip(*power_rows(), strict=True)
    assert ll.fit({"flops": flops, "loss": loss}, draws=100).parameters["E"] == pytest.approx(2)


def test_values_that_differ_in_the_last_digits_are_one_group():
    assert group_close(np.array([1e18, 3e18, 1.001e18, 9e17])).tolist() == [1, 2, 1, 0]
