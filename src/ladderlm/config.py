"""Read, check, override and hash configs.

Owns the conversion between dicts (TOML, JSON) and nested frozen dataclasses, the docstrings of
fields, and the hash of the options that can change a number. Each room declares its own fields in
its `config.py`, and `cli/` makes command-line flags from the same dataclasses.
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
from typing import Any, Literal, NoReturn, TypeVar, Union

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
    "require",
    "to_dict",
]

T = TypeVar("T")
_HALF = "ladderlm.half"
_NEUTRAL = "ladderlm.neutral"


def execution_field(default: Any) -> Any:
    """Declare a field of how a run is executed, which is recorded but never hashed."""
    return dataclasses.field(default=default, metadata={_HALF: "execution"})


def added_later(neutral: Any) -> Any:
    """Declare a field added after version 1, which is not hashed at its neutral value."""
    return dataclasses.field(default=neutral, metadata={_NEUTRAL: neutral})


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, including inherited fields."""
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
    """Return the known word that is closest in spelling, or None if none is close."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def read_config_file(path: Path | str) -> dict[str, Any]:
    """Read a TOML file, or a JSON file as runs write it, as a dict.

    Raises:
        ConfigError: the file is missing, unreadable, not TOML or JSON, or not a table; names the
            line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config {path}: {error}", fix="check the path") from error
    try:
        value = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path}: not valid {kind}: {error}", fix="fix this line") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a table of options, got a {type(value).__name__}")
    return value


def from_dict(cls: type[T], values: Any, where: str = "config") -> T:
    """Build a frozen dataclass from nested dicts; checks types and ignores no key.

    Args:
        cls: a dataclass whose fields are scalars, Literals, tuples, optionals or dataclasses.
        values: the content of a TOML or JSON file.
        where: the dotted place to name in errors.

    Raises:
        ConfigError: a key is unknown (names the nearest one) or missing, or a value has a wrong
            type or is not finite.
    """
    if not isinstance(values, dict):
        _refuse_value(where, values, "be a table of options")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            _refuse_option(f"{where}.{key}", str(key), fields)
        arguments[key] = _convert(hints[key], value, f"{where}.{key}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING
        if name not in arguments and no_default and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name} is missing", fix=f"set {name}")
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
        raise first or ConfigError(f"{where} must be {kind}, got {value!r}")
    if origin is Literal:
        allowed = typing.get_args(kind)
        if value not in allowed or isinstance(value, bool):
            close = nearest(str(value), map(str, allowed))
            fix = f"did you mean {close!r}?" if close else ""
            _refuse_value(where, value, f"be one of {list(allowed)}", fix)
        return value
    if origin is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, list | tuple):
            _refuse_value(where, value, "be a list", f"write [{value!r}]")
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(kinds) != len(value):
            _refuse_value(where, value, f"hold {len(kinds)} values")
        pairs = zip(kinds, value, strict=True)
        return tuple(_convert(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(pairs))
    return _convert_scalar(kind, value, where)


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"{where} must fit in 64 bits, got {value.bit_length()} bits")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e6 is how people write a million tokens
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        _refuse_value(where, value, f"be of type {kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        _refuse_value(where, value, "be a finite number")
    return value


def _refuse_value(where: str, value: Any, rule: str, fix: str = "") -> NoReturn:
    raise ConfigError(f"{where} must {rule}, got {value!r}", fix=fix)


def to_dict(config: Any) -> Any:
    """Return nested dataclasses as plain dicts and lists, as JSON needs them."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, list | tuple):
        return [to_dict(item) for item in config]
    return config


def replace_all(config: T, options: dict[str, Any]) -> T:
    """Return a copy of a config with some nested options changed, each named by its dotted path.

    Only the result is checked, so options that are valid only together may come in any order.

    Raises:
        ConfigError: an option is unknown, a value has a wrong type, or the result is not valid.
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
                raise ConfigError(f"unknown option {dotted}: {here} is one option, not a table")
            table = table[place]
        if last not in table:
            _refuse_option(dotted, last, table)
        table[last] = value
    return from_dict(type(config), values)


def _refuse_option(dotted: str, word: str, known: dict[str, Any]) -> NoReturn:
    close = nearest(word, known)
    place = dotted.removesuffix(word)
    fix = f"did you mean {place}{close}?" if close else f"choose one of {', '.join(known)}"
    raise ConfigError(f"unknown option {dotted}", fix=fix)


def meaning_of(config: Any) -> Any:
    """Return the options of a config that can change a number, as plain dicts.

    Leaves out the fields declared by `execution_field`, and later additions that have their neutral
    value, so that a run keeps its name when ladderlm gains an option.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return to_dict(config)
    kept = {}
    for field in dataclasses.fields(config):
        value, facts = getattr(config, field.name), field.metadata
        is_neutral = _NEUTRAL in facts and value == facts[_NEUTRAL]
        if facts.get(_HALF) != "execution" and not is_neutral:
            kept[field.name] = meaning_of(value)
    return kept


def content_hash(value: Any) -> str:
    """Return the hex SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Return the dotted options in which two nested dicts differ, as "name: old -> new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        parts = [differences(old.get(k), new.get(k), f"{place}.{k}".strip(".")) for k in keys]
        return [line for part in parts for line in part]
    return [] if old == new else [f"{place}: {old!r} -> {new!r}"]
