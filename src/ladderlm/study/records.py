"""Frozen dataclasses to JSON and back, and to tables in a notebook.

Owns the edge where the results of a study become plain values and where stored ones become typed
again. A class whose JSON is not its fields has `to_json` and `from_json`. Configs have stricter
rules of their own (`ladderlm.config`).
"""

import dataclasses
import functools
import html
import importlib.util
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from ladderlm.errors import ConfigError

__all__ = [
    "IN_MEMORY",
    "WHEN_KNOWN",
    "NoAnswer",
    "NotebookTable",
    "Unbounded",
    "fields_to_json",
    "parse_record",
    "plain",
]

T = TypeVar("T")
IN_MEMORY, WHEN_KNOWN = {"json": "never"}, {"json": "when known"}  # metadata of fields
Unbounded = Annotated[float, math.inf]  # JSON has null for its infinity


@dataclass(frozen=True)
class NoAnswer:
    """The reason why a value is missing."""

    problem: str


class NotebookTable:
    """A result that pandas and notebooks show as a table."""

    shown_columns: ClassVar[tuple[str, ...]] = ()  # of the notebook's table; (): all

    def table_rows(self) -> Sequence[Mapping[str, object]]:
        """Return the rows of the table, all with the same columns."""
        raise NotImplementedError

    def to_dataframe(self) -> Any:
        """Return the table as a pandas DataFrame.

        Raises:
            ConfigError: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:  # no part of ladderlm, nor of its extras
            raise ConfigError("pandas is not installed", "", "pip install pandas")
        return importlib.import_module("pandas").DataFrame(list(map(dict, self.table_rows())))

    def _repr_html_(self) -> str:
        lines: list[str] = []
        for row in self.table_rows():
            names = self.shown_columns or tuple(row)
            values = [row[name] for name in names]
            texts = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
            lines += [] if lines else [_html_row("th", names)]
            lines.append(_html_row("td", texts))
        return f"<pre>{html.escape(repr(self))}</pre>\n<table>\n{''.join(lines)}</table>"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>\n"


def plain(value: Any) -> Any:
    """Return nested values as JSON holds them."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return fields_to_json(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def fields_to_json(record: Any) -> Any:
    """Return a dataclass as a dict in the order of its fields.

    Fields with the metadata `IN_MEMORY` are left out, as are those with `WHEN_KNOWN` that are None.
    """
    found = {}
    for field in dataclasses.fields(record):
        value, when = getattr(record, field.name), field.metadata.get("json")
        if when != "never" and (when is None or value is not None):
            found[field.name] = plain(value)
    return found


def parse_record(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass from plain values.

    Unknown keys are ignored and missing ones take their defaults, since other versions wrote
    other keys. JSON has no NaN and no infinity: null becomes NaN for a float, infinity for
    `Unbounded`.
    """
    hints = _hints_of(typing.cast(Any, kind))
    return kind(**{name: _parse(hints[name], values[name]) for name in hints if name in values})


@functools.cache
def _hints_of(kind: Any) -> dict[str, object]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _parse(kind: Any, value: Any) -> Any:
    if hasattr(kind, "from_json"):
        return kind.from_json(value)
    if dataclasses.is_dataclass(kind):
        return parse_record(typing.cast(type, kind), value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _parse(_choose_kind(arguments, value), value)
    if origin is Annotated:
        return arguments[1] if value is None else value
    if origin is tuple:
        return tuple(_parse(arguments[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _parse(arguments[1], item) for key, item in value.items()}
    return math.nan if value is None and kind is float else value


def _choose_kind(kinds: Sequence[Any], value: Any) -> Any:
    """Return the dataclass of a union whose required fields are all there, or the first kind."""
    for kind in filter(dataclasses.is_dataclass, kinds if isinstance(value, Mapping) else ()):
        fields = dataclasses.fields(kind)
        missing = (dataclasses.MISSING, dataclasses.MISSING)
        needed = {f.name for f in fields if (f.default, f.default_factory) == missing}
        if needed <= value.keys():
            return kind
    return next(kind for kind in kinds if kind is not type(None))
