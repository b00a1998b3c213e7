"""`ladderlm fit`: slips in a file are named with their line; the answer has what is promised."""

import pytest


def power_rows(n=6):
    return [(1e18 * 4**i, 2 + 1.5 * 4 ** (-0.1 * i)) for i in range(n)]


def write(path, rows, header="flops,loss"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


SLIPS = {
    "empty file": ("", "has no rows"),
    "header alone": ("flops,loss\n", "has no rows"),
    "no loss": ("flops,los\n1,2\n", "no column 'loss'"),
    "no flops": ("flop,loss\n1,2\n3,4\n", "did you mean flop?"),
    "short line": ("flops,loss\n1e3,2\n1e4\n", "line 3: 1 values for 2 columns"),
    "not a number": (
        "flops,loss\n1e3,2\n1e4,n/a\n",
        "line 3: loss must be positive and finite, got 'n/a'",
    ),
    "nan": ("flops,loss\n1e3,2\n1e4,nan\n", "line 3: loss must be positive and finite, got 'nan'"),
    "negative": (
        "flops,loss\n-1e3,2\n1e4,2\n",
        "line 2: flops must be positive and finite, got '-1e3'",
    ),
    "zero": ("flops,loss\n1e3,0\n1e4,2\n", "line 2: loss must be positive and finite, got '0'"),
    "infinite": ("flops,loss\ninf,3\n1e4,2\n", "flops must be positive and finite, got 'inf'"),
    "twice the same": ("flops,loss\n1e3,3\n1e4,2\n1e3,3\n", "lines 2 and 4 are the same"),
    "two of one name": ("loss,loss\n1e3,3\n1e4,2\n", "two columns of one name"),
    "too few": ("flops,loss\n1e3,3\n1e4,2\n1e5,1.5\n", "3 rows for the 3 parameters"),
    "constant x": ("flops,loss\n1e3,3\n1e3,2\n1e3,1.5\n1e3,1.6\n", "flops has 1 different value"),
    "two x": ("flops,loss\n1e3,3\n1e3,2\n1e4,1.5\n1e4,1.6\n", "flops has 2 different values"),
}


@pytest.mark.parametrize(("text", "says"), SLIPS.values(), ids=SLIPS)
def test_slips_in_a_file_are_named(ladderlm, tmp_path, text, says):
    """P03: exit code 2 and a sentence, whatever the file holds."""
    file = tmp_path / "points.csv"
    file.write_text(text)
    said = ladderlm("fit", file)
    assert said.code == 2
    assert says in said.err


def test_files_that_cannot_be_read_are_named(ladderlm, tmp_path):
    assert "cannot read" in ladderlm("fit", tmp_path / "nowhere.csv").err
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in ladderlm("fit", tmp_path / "binary.csv").err


def test_the_answer_has_what_the_contract_names(ladderlm, tmp_path):
    file = write(tmp_path / "points.csv", power_rows())
    said = ladderlm("fit", file, "--json", "--draws", 100)
    assert said.code == 0, said.err
    assert set(said.json) >= {
        "form", "parameters", "intervals", "objective", "identified", "n_used", "excluded",
        "holdout", "warnings", "card",
    }  # fmt: skip
    assert said.json["parameters"]["c"] == pytest.approx(0.1, rel=1e-3)
    assert said.json["n_used"] == 6
    text = ladderlm("fit", file, "--draws", 100)
    assert "hold-out, top rung" in text.out
    assert "E is" in text.out


def test_the_bowls_of_an_isoflop_fit_are_drawn(ladderlm, tmp_path):
    rows = []
    for c in (1e18, 1e19):
        for k in range(-3, 4):
            params = 1e8 * (c / 1e18) ** 0.45 * 2**k
            rows.append((params, c / 6 / params, c, 3 - 0.1 * (c == 1e19) + 0.02 * k * k))
    file = write(tmp_path / "bowls.csv", rows, "params,tokens,flops,loss")
    for suffix in ("png", "svg"):
        figure = tmp_path / f"bowls.{suffix}"
        said = ladderlm("fit", file, "--form", "isoflop", "--draws", 100, "--figure", figure)
        assert said.code == 0, said.err
        assert figure.stat().st_size > 1000
    assert "exponent_params" in said.out
    said = ladderlm("fit", file, "--form", "power", "--figure", tmp_path / "a.png")
    assert said.code == 2
