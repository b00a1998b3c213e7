"""The rows of a table that a fit is asked for.

Owns their choice by the options of `fit`, their numeric columns, labels and bootstrap clusters.
"""

from collections.abc import Mapping
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
    """Rows that were asked for.

    Args:
        table: columns under their usual names.
        fitted: which of its rows are fitted.
        excluded: how many of the file's rows were left out, by reason.
    """

    table: Table
    fitted: NDArray[np.bool_]
    excluded: dict[str, int]


def choose_rows(table: Table, options: FitOptions) -> Rows:
    """Rename columns, then choose rows to look at and to fit.

    Raises:
        DataError: an unknown column, or nothing is left.
    """
    columns: dict[str, tuple[str, ...]] = dict(table.columns)
    for pair in options.map:
        name, sign, own = pair.partition("=")
        if not sign:
            raise DataError(
                f"cannot read {pair!r}", "--map gives a new name to a column", "params=my_column"
            )
        columns[name] = table.text(own)
    if options.x_column and options.form != "powerlaw-nd":
        if len(options.x_column) > 1:
            raise DataError(f"--x-column {' '.join(options.x_column)}", f"{options.form} has one x")
        columns["flops"] = table.text(options.x_column[0])
    columns["loss"] = table.text(options.loss)
    table = replace(table, columns=columns)
    excluded = {}
    for clause in options.where:
        mask = table.matching(clause)
        excluded[f"not {clause}"] = int((~mask).sum())
        table = table.take(mask)
    fitted = np.zeros(len(table), dtype=bool) if options.fit_on else np.ones(len(table), dtype=bool)
    for clause in options.fit_on:
        fitted |= table.matching(clause)
    return Rows(table, fitted, {k: n for k, n in excluded.items() if n})


def columns_of(table: Table, names: tuple[str, ...]) -> tuple[dict[str, Array], list[str]]:
    """Return numeric columns; flops that are not there are 6 N D, which is said.

    Returns:
        The columns, and what to warn about.
    """
    found: dict[str, Array] = {}
    said = []
    for name in names:
        if name == "flops" and name not in table and {"params", "tokens"} <= set(table.columns):
            found[name] = 6 * table.numbers("params") * table.numbers("tokens")
            said.append("there is no column of FLOPs: C = 6 N D is used")
        else:
            found[name] = table.numbers(name)
    return found, said


def row_clusters(table: Table) -> NDArray[np.int64]:
    """Return what the bootstrap draws: the column `cluster`, or every row by itself."""
    if "cluster" not in table:
        return np.arange(len(table))
    names = table.text("cluster")
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    return np.array([first[name] for name in names], dtype=np.int64)


def label_rows(table: Table) -> list[dict[str, Any]]:
    """Name rows by their line and by their columns that are not numbers."""

    def is_text(values: tuple[str, ...]) -> bool:
        try:
            return any(np.isnan(float(v)) for v in values)
        except ValueError:
            return True

    kept: Mapping[str, tuple[str, ...]] = {
        name: values
        for name, values in table.columns.items()
        if is_text(values) and (len(table) == 1 or len(set(values)) > 1)
    }
    return [
        {"line": line, "label": " ".join(values[i] for values in kept.values())}
        for i, line in enumerate(table.lines)
    ]
