"""What a fit is asked for and what it gives.

Owns the options of `fit`, the choice of rows by them, and the shape of the answer, which is the
same for every form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.scaling.table import Table

__all__ = [
    "VERSION",
    "Fit",
    "FitOptions",
    "Rows",
    "choose_rows",
    "columns_of",
    "label_rows",
    "row_clusters",
]

Array = NDArray[np.float64]
VERSION = 1  # of the procedure, written into every card


@dataclass(frozen=True)
class FitOptions:
    """Fit a scaling law to a table of results."""

    form: Literal[
        "power", "quadratic", "chinchilla", "overtraining", "isoflop", "powerlaw-nd", "joint"
    ] = "power"
    """L in C; ln L in ln C; in N and D; with over-training; optima at equal compute; a power law of
    any column; variants as the baseline with more compute."""
    loss: str = "loss"
    """Column to be explained."""
    x_column: tuple[str, ...] = ()
    """Column of compute (default: flops); for powerlaw-nd one or more (default: params tokens)."""
    map: tuple[str, ...] = ()
    """Names of other columns, as in params=params_nonembed."""
    where: tuple[str, ...] = ()
    """Rows to look at, as in size=small|large,loss<9. All clauses must hold."""
    fit_on: tuple[str, ...] = ()
    """Rows to fit, of those: any clause may hold. The others are predicted. Default: all."""
    objective: Literal["huber", "least-squares"] = "huber"
    """Huber on ln L, or squares of L; the other one is reported beside it."""
    baseline: str | None = None
    """Arm that the others are compared with (joint). Default: the first row's."""
    optimum: str | None = None
    """For powerlaw-nd: keep, for every x, only rows near the smallest value of this column."""
    within: float = 0.0025
    """How near, as a share of that value."""
    draws: int = 1000
    """Bootstrap draws."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise DataError(
                f"draws = {self.draws}", "a 95 % interval of fewer is noise", "use 500 or more"
            )
        if not 0 < self.within < 1:
            raise DataError(f"within = {self.within}", "it is a share, such as 0.0025")


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


@dataclass(frozen=True)
class Fit:
    """A fitted law with everything that decides how far it can be trusted.

    Args:
        parameters: by the objective that was asked for.
        intervals: 95 %, of each parameter.
        objective: its name and value, and the other objective's parameters beside it.
        identified: whether E can be known from these points, with the profile; {} without E.
        excluded: rows left out, by reason.
        holdout: rows predicted without having been fitted.
        details: what only this form has (profile, leave-one-rung-out, optima, comparisons, ...).
        rows: fitted rows with what the law says of them.
        card: form, loss, starts, numbers of rows and the version of the procedure.
    """

    form: str
    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    objective: dict[str, Any]
    identified: dict[str, Any]
    n_used: int
    excluded: dict[str, int]
    holdout: list[dict[str, Any]]
    warnings: list[str]
    card: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Give plain values; details stand beside the rest."""
        return {**{k: v for k, v in vars(self).items() if k != "details"}, **self.details}


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
    """Give numeric columns; flops that are not there are 6 N D, which is said.

    Returns:
        The columns, and what to warn about.
    """
    found: dict[str, Array] = {}
    said = []
    for name in names:
        if name == "flops" and name not in table and {"params", "tokens"} <= set(table.columns):
            found[name] = 6 * table.numbers("params") * table.numbers("tokens")
            said.append("there is no column of FLOPs: C = 6 N D stands in for it")
        else:
            found[name] = table.numbers(name)
    return found, said


def row_clusters(table: Table) -> NDArray[np.int64]:
    """Give what the bootstrap draws: the column `cluster`, or every row by itself."""
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
