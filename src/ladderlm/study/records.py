"""Frozen dataclasses to JSON and back.

Owns the edge where the results of a study become plain values and where stored ones become typed
again. Configs have stricter rules of their own (`ladderlm.config`).
"""

import dataclasses
import importlib.util
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ladderlm.errors import ConfigError

__all__ = ["NoAnswer", "parse_record", "plain", "to_dataframe"]

T = TypeVar("T")


@dataclass(frozen=True)
class NoAnswer:
    """What stands where a number cannot be had: why not."""

    problem: str


def to_dataframe(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a pandas DataFrame.

    Raises:
        ConfigError: pandas is not installed.
    """
    if importlib.util.find_spec("pandas") is None:  # no part of ladderlm, nor of its extras
        raise ConfigError("pandas is not installed", "", "pip install pandas")
    pandas = importlib.import_module("pandas")
    return pandas.DataFrame([dict(row) for row in rows])


def plain(value: Any) -> Any:
    """Return dataclasses as dicts, in the order of their fields; `to_json` decides where it is."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def parse_record(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass from plain values.

    Unknown keys are ignored and missing ones take their defaults, since other versions wrote
    other keys. JSON has no NaN and no infinity: null where a number must stand becomes NaN.
    """
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(typing.cast(Any, kind))]
    return kind(**{name: _parse(hints[name], values[name]) for name in names if name in values})


def _parse(kind: Any, value: Any) -> Any:
    if hasattr(kind, "from_json"):
        return kind.from_json(value)
    if dataclasses.is_dataclass(kind):
        return parse_record(typing.cast(type, kind), value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if NoAnswer in arguments and isinstance(value, Mapping) and "problem" in value:
            return parse_record(NoAnswer, value)
        known = [option for option in arguments if option not in (NoAnswer, type(None))]
        return None if value is None else _parse(known[0], value)
    if origin is tuple:
        return tuple(_parse(arguments[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _parse(arguments[1], item) for key, item in value.items()}
    return math.nan if value is None and kind is float else value
