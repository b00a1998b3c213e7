"""Dataclass configs: read, check, override, hash.

Owns the way from a dict (TOML, JSON) to nested frozen dataclasses and back, the docstrings of
fields, and the hash of the half of a config that carries meaning. Does not own any field: each room
declares its own in its `config.py`. Command-line flags are made from the same dataclasses in
`cli/`.
"""

import ast
import dataclasses
import difflib
import hashlib
import inspect
import itertools
import json
import math
import textwrap
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from ladderlm.errors import ConfigError

__all__ = [
    "added_later",
    "content_hash",
    "differences",
    "execution_field",
    "field_docs",
    "from_dict",
    "meaning_of",
    "nearest",
    "read_config_file",
    "replace_all",
    "replace_at",
    "require",
    "to_dict",
]

T = TypeVar("T")
_HALF = "ladderlm.half"
_NEUTRAL = "ladderlm.neutral"


def execution_field(default: Any) -> Any:
    """Declare a field of how a run is carried out, which is recorded but never hashed."""
    return dataclasses.field(default=default, metadata={_HALF: "execution"})


def added_later(neutral: Any) -> Any:
    """Declare a field added after version 1, whose neutral value stays out of the hash."""
    return dataclasses.field(default=neutral, metadata={_NEUTRAL: neutral})


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring that stands below each field of a dataclass, inherited ones included."""
    found = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, below in itertools.pairwise(node.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def require(name: str, value: object, holds: bool, rule: str, fix: str = "") -> None:
    """Raise ConfigError, such as "n_steps must be at least 1, got 0", unless the rule holds."""
    if not holds:
        raise ConfigError(f"{name} must {rule}, got {value}", fix=fix)


def nearest(word: str, known: typing.Iterable[str]) -> str | None:
    """Return the known word closest in spelling, or None when nothing is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def read_config_file(path: Path | str) -> dict[str, Any]:
    """Read a TOML (by hand) or JSON (as written by runs) file as a dict.

    Raises:
        ConfigError: missing, unreadable, not TOML or JSON, or not a table; names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config {path}: {error}", "", "check the path") from error
    try:
        value = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: {error}",
            "a config file is TOML, or JSON if its name ends in .json",
            "fix the line named above",
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}, not a table of options")
    return value


def from_dict(cls: type[T], values: Any, where: str = "config") -> T:
    """Build a frozen dataclass from nested dicts, with types checked and no key ignored.

    Args:
        cls: a dataclass whose fields are scalars, Literals, tuples, optionals or dataclasses.
        values: what a TOML or JSON file holds.
        where: the dotted place named in errors.

    Raises:
        ConfigError: unknown key (offers the nearest), wrong type, NaN, infinity, missing key.
    """
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where} = {values!r} is not a table", f"{where} holds options of {cls.__name__}"
        )
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            close = nearest(str(key), fields)
            raise ConfigError(
                f"unknown option {where}.{key}",
                "a misspelt option that is ignored would change the experiment in silence",
                f"did you mean {where}.{close}?" if close else f"known here: {', '.join(fields)}",
            )
        arguments[key] = _convert(hints[key], value, f"{where}.{key}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING
        if name not in arguments and no_default and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name} is missing", "it has no default", "set it")
    return cls(**arguments)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, where)
    if origin in (Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        first: ConfigError | None = None
        for option in options:
            if option is not type(None):
                try:
                    return _convert(option, value, where)
                except ConfigError as error:
                    first = first or error
        raise first or ConfigError(f"{where} = {value!r} is not allowed")
    if origin is Literal:
        allowed = typing.get_args(kind)
        if value in allowed and not isinstance(value, bool):
            return value
        close = nearest(str(value), [str(word) for word in allowed])
        hint = f"did you mean {close!r}?" if close else ""
        raise ConfigError(f"{where} = {value!r}", f"it must be one of {list(allowed)}", hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} = {value!r} is not a list", "", f"write [{value!r}]")
        arguments = typing.get_args(kind)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(
                _convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)
            )
        if len(arguments) != len(value):
            raise ConfigError(f"{where} = {value!r} must hold {len(arguments)} values")
        pairs = zip(arguments, value, strict=True)
        return tuple(_convert(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(pairs))
    return _convert_scalar(kind, value, where)


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"{where} is a number of {value.bit_length()} bits", "it must fit in 64")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e6 is how people write a million tokens
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(
            f"{where} = {value!r} is a {type(value).__name__}", f"it must be a {kind.__name__}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} = {value!r}", "it must be a finite number")
    return value


def to_dict(config: Any) -> Any:
    """Turn nested dataclasses into plain dicts and lists, fit for JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, list | tuple):
        return [to_dict(item) for item in config]
    return config


def replace_at(config: T, dotted: str, value: Any) -> T:
    """Copy a config with one nested option changed, named by its dotted path.

    Raises:
        ConfigError: no such option, or a value of the wrong type.
    """
    return replace_all(config, {dotted: value})


def replace_all(config: T, options: dict[str, Any]) -> T:
    """Copy a config with several nested options changed at once, each named by its dotted path.

    The result is checked as a whole, so options that are only valid together may come in any
    order.

    Raises:
        ConfigError: no such option, a value of the wrong type, or a combination that is refused.
    """
    values = to_dict(config)
    for dotted, value in options.items():
        *places, last = dotted.split(".")
        table = values
        for at, place in enumerate(places):
            here = ".".join(places[: at + 1])
            if place not in table:
                _refuse_option(here, place, table)
            if not isinstance(table[place], dict):
                raise ConfigError(f"{here} is one option, not a table", f"{dotted} lies below it")
            table = table[place]
        if last not in table:
            _refuse_option(dotted, last, table)
        table[last] = value
    return from_dict(type(config), values)


def _refuse_option(dotted: str, word: str, known: dict[str, Any]) -> None:
    close = nearest(word, known)
    place = dotted.removesuffix(word)
    raise ConfigError(
        f"unknown option {dotted}",
        f"there is no option {word!r} there",
        f"did you mean {place}{close}?" if close else f"known here: {', '.join(known)}",
    )


def meaning_of(config: Any) -> Any:
    """Return the half of a config that can change a number, as plain dicts.

    Leaves out fields declared by `execution_field`, and later additions that stand at their neutral
    value, so that a run keeps its name when ladderlm gains an option.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return to_dict(config)
    kept = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get(_HALF) == "execution":
            continue
        if _NEUTRAL in field.metadata and value == field.metadata[_NEUTRAL]:
            continue
        kept[field.name] = meaning_of(value)
    return kept


def content_hash(value: Any) -> str:
    """Return the hex SHA-256 of a value's canonical JSON (sorted keys, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """List the dotted options in which two nested dicts differ, as "name: old -> new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        parts = [differences(old.get(k), new.get(k), f"{place}.{k}".strip(".")) for k in keys]
        return [line for part in parts for line in part]
    return [] if old == new else [f"{place}: {old!r} -> {new!r}"]
