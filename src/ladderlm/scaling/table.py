"""Tables of training results from any source.

Owns the reading of CSV, the choice of rows by clauses, and the checks that a fit relies on. Knows
no form.

A clause consists of conditions joined by commas, all of which must hold: `column=value`, with `|`
between alternative values, or `<`, `<=`, `>`, `>=`, `!=` and a number. Example:
`arch=small|large,multiplier>=1`.
"""

import csv
import io
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.config import nearest
from ladderlm.errors import DataError

__all__ = ["Table", "group_close", "read_table", "table_of"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
_ORDERS: dict[str, Callable[[Any, Any], Any]]
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|=|<|>)\s*(.*)")


@dataclass(frozen=True)
class Table:
    """Rows of text by column."""

    name: str  # for errors
    columns: Mapping[str, tuple[str, ...]]  # of equal length
    lines: tuple[int, ...]  # line of each row in its file

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def text(self, column: str) -> tuple[str, ...]:
        """Return a column, or raise DataError if there is none of that name."""
        if column not in self.columns:
            close = nearest(column, self.columns)
            raise DataError(
                f"{self.name} has no column {column!r}",
                f"its columns are {', '.join(self.columns)}",
                f"did you mean {close}?" if close else "name one of its columns",
            )
        return self.columns[column]

    def numbers(self, column: str) -> Array:
        """Return a column of positive finite numbers, whose logarithms are taken.

        Raises:
            DataError: there is no such column, or another value, with its line.
        """
        values = np.empty(len(self))
        for i, text in enumerate(self.text(column)):
            try:
                values[i] = float(text)
            except ValueError:
                values[i] = np.nan
            if not (np.isfinite(values[i]) and values[i] > 0):
                raise DataError(
                    f"{self.name}, line {self.lines[i]}: {column} must be positive and finite, got "
                    f"{text!r}",
                    fix=f"fix the row, or leave it out with --where '{column}>0,{column}<inf'",
                )
        return values

    def take(self, mask: Mask) -> "Table":
        """Return the chosen rows."""
        kept = np.flatnonzero(mask)
        columns = {k: tuple(values[i] for i in kept) for k, values in self.columns.items()}
        return Table(self.name, columns, tuple(self.lines[i] for i in kept))

    def matching(self, clause: str) -> Mask:
        """Return which rows meet a clause.

        Raises:
            DataError: the clause is invalid, names an unknown column, or no row meets it.
        """
        chosen = np.ones(len(self), dtype=bool)
        for condition in clause.split(","):
            found = _CONDITION.fullmatch(condition)
            if not found:
                raise DataError(
                    f"a condition must be a column, one of = != < <= > >=, and a value, got "
                    f"{condition!r}",
                    fix="write it as in --where 'arch=small|large,multiplier>=1'",
                )
            column, sign, wanted = found.groups()
            chosen &= np.array([_meets(v, sign, wanted) for v in self.text(column)], dtype=bool)
        if not chosen.any():
            raise DataError(f"no row of {self.name} meets {clause!r}", fix=self._offer(clause))
        return chosen

    def _offer(self, clause: str) -> str:
        """Return values that the first condition of a clause could have."""
        found = _CONDITION.fullmatch(clause.split(",")[0])
        column = found.group(1) if found else ""
        values = [*dict.fromkeys(self.columns.get(column, ()))]
        shown = ", ".join(values[:8]) + ", ..." * (len(values) > 8)
        return f"choose among the values of {column}: {shown}"


def _meets(value: str, sign: str, wanted: str) -> bool:
    if sign in _ORDERS:
        try:
            return bool(_ORDERS[sign](float(value), float(wanted)))
        except ValueError:
            return False
    equal = any(_same(value, option) for option in wanted.split("|"))
    return equal if sign == "=" else not equal


def _same(value: str, option: str) -> bool:
    try:
        return float(value) == float(option)
    except ValueError:
        return value.strip() == option.strip()


def read_table(path: Path | str) -> Table:
    """Read a CSV file with a header.

    Raises:
        DataError: the file is unreadable, has no header or no rows, rows of different lengths, or
            two equal rows.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", fix="name a CSV file") from error
    reader = csv.reader(io.StringIO(text))
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        fix = "write the names of the columns on the first line, and a row on each further line"
        raise DataError(f"{path} has no rows", fix=fix)
    header = [name.strip() for name in rows.pop(0)[1]]
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns of one name in {header}", fix="rename one")
    for line, row in rows:
        if len(row) != len(header):
            what = f"{path}, line {line}: {len(row)} values for {len(header)} columns"
            raise DataError(what, fix="fix the line")
    columns = {name: tuple(row[i] for _, row in rows) for i, name in enumerate(header)}
    return _checked(str(path), columns, tuple(line for line, _ in rows))


def table_of(columns: Mapping[str, Sequence[object]]) -> Table:
    """Return a table of columns in memory.

    Raises:
        DataError: the columns are empty or of different lengths, or two rows are equal.
    """
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or 0 in lengths:
        why = "a table has equal columns that are not empty"
        raise DataError(f"columns of {sorted(lengths)} rows", why)
    texts = {
        name: tuple(repr(float(v)) if isinstance(v, float) else str(v) for v in values)
        for name, values in columns.items()
    }
    return _checked("points", texts, tuple(range(1, lengths.pop() + 1)))


def _checked(name: str, columns: Mapping[str, tuple[str, ...]], lines: tuple[int, ...]) -> Table:
    seen: dict[tuple[str, ...], int] = {}
    for line, row in zip(lines, zip(*columns.values(), strict=True), strict=True):
        if row in seen:
            raise DataError(
                f"{name}: lines {seen[row]} and {line} are the same in every column",
                "a run counted twice makes intervals too narrow",
                "remove one; replicates differ at least in a seed column",
            )
        seen[row] = line
    return Table(name, columns, lines)


def group_close(values: Array, tolerance: float = 0.01) -> NDArray[np.int64]:
    """Number positive values by size from 0; adjacent ones within the tolerance share a number."""
    order = np.argsort(values, kind="stable")
    steps = np.diff(np.log(values[order]), prepend=np.log(values[order[0]])) > tolerance
    groups = np.empty(len(values), dtype=np.int64)
    groups[order] = np.cumsum(steps)
    return groups
