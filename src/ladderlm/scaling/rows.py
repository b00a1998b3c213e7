"""The rows of a table that are fitted.

Owns their choice by the options of `fit`, their numeric columns, labels and bootstrap clusters.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.table import Table

__all__ = ["Rows", "choose_rows", "columns_of", "label_rows", "row_clusters"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """The chosen rows."""

    table: Table  # columns under their usual names
    fitted: NDArray[np.bool_]  # which rows are fitted
    excluded: dict[str, int]  # number of the file's rows that were left out, by reason


def choose_rows(table: Table, options: FitOptions) -> Rows:
    """Rename columns, then choose rows to read and to fit.

    Raises:
        DataError: an unknown column, or no row is left.
    """
    columns: dict[str, tuple[str, ...]] = dict(table.columns)
    for pair in options.map:
        name, sign, own = pair.partition("=")
        if not sign:
            what = f"--map must be NEW=COLUMN, got {pair!r}"
            raise DataError(what, fix="write it as in --map params=my_column")
        columns[name] = table.text(own)
    if options.x_column and options.form != "powerlaw-nd":
        if len(options.x_column) > 1:
            what = f"--x-column must be one column for {options.form}, got "
            raise DataError(what + " ".join(options.x_column), fix="name one of them")
        columns["flops"] = table.text(options.x_column[0])
    columns["loss"] = table.text(options.loss)
    table = replace(table, columns=columns)
    excluded = {}
    for clause in options.where:
        mask = table.matching(clause)
        excluded[f"not {clause}"] = int((~mask).sum())
        table = table.take(mask)
    fitted = np.full(len(table), not options.fit_on)
    for clause in options.fit_on:
        fitted |= table.matching(clause)
    return Rows(table, fitted, {k: n for k, n in excluded.items() if n})


def columns_of(table: Table, names: tuple[str, ...]) -> tuple[dict[str, Array], list[str]]:
    """Return numeric columns and warnings. Missing flops are replaced by 6 N D, with a warning."""
    found: dict[str, Array] = {}
    warnings = []
    for name in names:
        if name == "flops" and name not in table and {"params", "tokens"} <= set(table.columns):
            found[name] = 6 * table.numbers("params") * table.numbers("tokens")
            warnings.append("there is no column of FLOPs: C = 6 N D is used")
        else:
            found[name] = table.numbers(name)
    return found, warnings


def row_clusters(table: Table) -> NDArray[np.int64]:
    """Return the cluster of each row for the bootstrap: the column `cluster`, or the row itself."""
    if "cluster" not in table:
        return np.arange(len(table))
    names = table.text("cluster")
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    return np.array([first[name] for name in names], dtype=np.int64)


def label_rows(table: Table) -> list[dict[str, Any]]:
    """Label rows by their line and by their columns that are not numbers."""

    def is_text(values: tuple[str, ...]) -> bool:
        try:
            return any(np.isnan(float(v)) for v in values)
        except ValueError:
            return True

    kept = [
        values
        for values in table.columns.values()
        if is_text(values) and (len(table) == 1 or len(set(values)) > 1)
    ]
    return [
        {"line": line, "label": " ".join(values[i] for values in kept)}
        for i, line in enumerate(table.lines)
    ]
