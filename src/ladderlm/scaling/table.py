"""Tables of training results from any source.

Owns the reading of CSV, the choice of rows by clauses, and the checks that a fit relies on. Knows
no form.

A clause is conditions joined by commas, all of which must hold: `column=value`, with `|` between
values any of which will do, or `<`, `<=`, `>`, `>=`, `!=` and a number. Example:
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
_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|=|<|>)\s*(.*)")


@dataclass(frozen=True)
class Table:
    """Rows of text by column.

    Args:
        name: what errors call it.
        columns: all of equal length.
        lines: line of each row in its file.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def text(self, column: str) -> tuple[str, ...]:
        """Return a column.

        Raises:
            DataError: there is none of that name.
        """
        if column not in self.columns:
            close = nearest(column, self.columns)
            raise DataError(
                f"{self.name} has no column {column!r}",
                f"its columns are {', '.join(self.columns)}",
                f"did you mean {close}?" if close else "name the column that holds it",
            )
        return self.columns[column]

    def numbers(self, column: str) -> Array:
        """Return a column of positive finite numbers.

        Raises:
            DataError: no such column, or a value that has no logarithm, with its line.
        """
        values = np.empty(len(self))
        for i, text in enumerate(self.text(column)):
            try:
                values[i] = float(text)
            except ValueError:
                values[i] = np.nan
            if not (np.isfinite(values[i]) and values[i] > 0):
                raise DataError(
                    f"{self.name}, line {self.lines[i]}: {column} = {text!r}",
                    "a logarithm is taken: it must be a positive finite number",
                    f"fix the row, or leave it out with --where '{column}>0'",
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
            DataError: the clause cannot be read, names no column, or no row meets it.
        """
        chosen = np.ones(len(self), dtype=bool)
        for condition in clause.split(","):
            found = _CONDITION.fullmatch(condition)
            if not found:
                raise DataError(
                    f"cannot read {condition!r}",
                    "a condition is a column, one of = != < <= > >=, and a value",
                    "write it as in --where 'arch=small|large,multiplier>=1'",
                )
            column, sign, wanted = found.groups()
            chosen &= np.array([_meets(v, sign, wanted) for v in self.text(column)], dtype=bool)
        if not chosen.any():
            raise DataError(
                f"no row of {self.name} meets {clause!r}",
                "there would be nothing to fit",
                _offer(self, clause),
            )
        return chosen


def _offer(table: Table, clause: str) -> str:
    found = _CONDITION.fullmatch(clause.split(",")[0])
    column = found.group(1) if found else ""
    values = list(dict.fromkeys(table.columns.get(column, ())))
    return f"values of {column}: {', '.join(values[:8])}{', ...' if len(values) > 8 else ''}"


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
        DataError: not readable, no header, no rows, rows of other lengths, or two rows that are
            the same in every column.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", "", "name a CSV file") from error
    reader = csv.reader(io.StringIO(text))
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise DataError(f"{path} has no rows", "", "the first line names the columns")
    header = [name.strip() for name in rows[0][1]]
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns of one name in {header}", "", "rename one")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(row)} values for {len(header)} columns",
                "values would land in wrong columns",
                "fix the line",
            )
    return _checked(
        str(path),
        {name: tuple(row[i] for _, row in rows[1:]) for i, name in enumerate(header)},
        tuple(line for line, _ in rows[1:]),
    )


def table_of(columns: Mapping[str, Sequence[object]]) -> Table:
    """Make a table of columns in memory.

    Raises:
        DataError: none, of different lengths, or two equal rows.
    """
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(
            f"columns of {sorted(lengths)} rows", "a table has equal columns that are not empty"
        )
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
    """Number positive values by size, from 0; neighbours within the tolerance share a number."""
    order = np.argsort(values, kind="stable")
    steps = np.diff(np.log(values[order]), prepend=np.log(values[order[0]])) > tolerance
    groups = np.empty(len(values), dtype=np.int64)
    groups[order] = np.cumsum(steps)
    return groups
