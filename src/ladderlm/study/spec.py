"""The study file.

Owns `StudySpec` and how it is read from TOML, stored and checked. Its runs are in `plan.py`.
"""

import contextlib
import difflib
import logging
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ladderlm.config import (
    from_dict,
    nearest,
    read_config_file,
    replace_all,
    require,
    to_dict,
)
from ladderlm.errors import ConfigError
from ladderlm.files import publish_json, publish_text, read_json
from ladderlm.run.presets import preset
from ladderlm.study.options import LadderOptions, SearchOptions
from ladderlm.training.run_config import RunConfig

__all__ = [
    "Arm",
    "StudySpec",
    "copy_stored_study",
    "read_stored_study",
    "read_study",
    "store_study",
]

STUDY_FILE, BASE_FILE = "study.toml", "base.json"
USE_SCALE = "use_scale"
TUNE = ("optim.learning_rate", "bracket")
Table = Mapping[str, Any]  # of the file, not checked yet
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """One variant: options that replace those of the base."""

    name: str
    set: dict[str, Any] = field(default_factory=dict)
    hypothesis: str = ""
    tune: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySpec:
    """A study: a question, a base, a ladder and its arms, of which the first is the baseline.

    Args:
        scale: name of the file's `[scale.NAME]` that was laid over base, ladder and arms, if any.
    """

    name: str
    question: str
    rationale: str
    base: RunConfig
    ladder: LadderOptions
    arms: tuple[Arm, ...]
    pool: str | None
    demonstration: bool
    scale: str | None = None
    search: SearchOptions | None = None

    def arm_config(self, arm: Arm) -> RunConfig:
        """Return the base with an arm's options.

        Raises:
            ConfigError: an unknown option or an invalid value; names the arm.
        """
        with _naming(f"arm {arm.name!r}"):
            return replace_all(self.base, arm.set)


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Prefix a ConfigError with its place in the study file."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.what}", error.why, error.fix) from error


def store_study(folder: Path, file: Path | str, spec: StudySpec) -> None:
    """Store the study file and its resolved base in the study's folder.

    A file that differs from the stored one replaces it, and the difference is logged. Run ids hash
    the configs, so results of the old file cannot be taken for new ones.
    """
    text = Path(file).read_text(encoding="utf-8")
    if spec.scale is not None and tomllib.loads(text).get(USE_SCALE) != spec.scale:
        text = f'{USE_SCALE} = "{spec.scale}"\n{text}'
    kept = folder / STUDY_FILE
    old = kept.read_text(encoding="utf-8") if kept.is_file() else text
    if old != text:
        lines = (old.splitlines(), text.splitlines())
        changes = list(difflib.unified_diff(*lines, lineterm="", n=0))
        shown = "; ".join(line for line in changes[2:] if not line.startswith("@@"))
        _log.warning("the study file has changed: %s", shown)
        _log.warning("finished runs of the old file stay in the pool under their own ids")
    publish_text(kept, text)
    publish_json(folder / BASE_FILE, to_dict(spec.base))


def copy_stored_study(source: Path, folder: Path) -> None:
    """Copy the files of `store_study` to another folder."""
    publish_text(folder / STUDY_FILE, (source / STUDY_FILE).read_text(encoding="utf-8"))
    publish_json(folder / BASE_FILE, read_json(source / BASE_FILE))


def read_stored_study(folder: Path) -> StudySpec:
    """Read back the files of `store_study`.

    Raises:
        ConfigError: the folder is not a study.
    """
    if not (folder / STUDY_FILE).is_file():
        raise ConfigError(
            f"{folder} is not a study folder (no {STUDY_FILE})",
            "",
            "name the --out folder of `ladderlm study run`",
        )
    base = from_dict(RunConfig, read_json(folder / BASE_FILE), str(folder / BASE_FILE))
    return read_study(folder / STUDY_FILE, base)


# Keys of the file and the kinds of their values.
_Kinds = dict[str, type]
_TOP: _Kinds = {"name": str, "question": str, "rationale": str, "base": dict, "ladder": dict}
_TOP |= {"arm": list, "study": dict, "scale": dict, USE_SCALE: str, "search": dict}
_SCALE: _Kinds = {"base": dict, "ladder": dict, "set": dict}
_STUDY: _Kinds = {"pool": str, "demonstration": bool}
_ARM: _Kinds = {"name": str, "set": dict, "hypothesis": str, "tune": dict}
_WORDS = {str: "text", dict: "a table", list: "a list of tables, [[arm]]", bool: "true or false"}


def read_study(
    path: Path | str, base: RunConfig | None = None, scale: str | None = None
) -> StudySpec:
    """Read a study file.

    Args:
        path: TOML.
        base: replaces the resolved `[base]`, where that was stored before.
        scale: name of the `[scale.NAME]` to lay over base, ladder and arms; it is added to the
            study's name. None: that of the file's `use_scale`, if it has one.

    Raises:
        ConfigError: unknown keys, values of the wrong kind, missing parts, an arm that changes
            nothing or sets what the ladder sets.
    """
    path = Path(path)
    values: Table = read_config_file(path)
    _check_keys(values, _TOP, str(path))
    for needed in ("name", "base", "ladder", "arm"):
        if needed not in values:
            raise ConfigError(f"{path}: {needed!r} is missing", "", "see docs/studies.md")
    for arm in values["arm"]:
        _check_keys(arm, _ARM, f"{path}: [[arm]]")
    scale = scale or values.get(USE_SCALE)
    name = values["name"]
    if scale is not None:
        values = _apply_scale(values, scale, path)
        name = f"{name}-{scale}"
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{path}: name = {name!r}", "it names a folder", "use letters, digits, -")
    arms = tuple(_read_arm(arm, path) for arm in values["arm"])
    search = _read_search(values["search"], path) if "search" in values else None
    if len(arms) < (2 if search is None else 1) or len({arm.name for arm in arms}) < len(arms):
        raise ConfigError(
            f"{path}: a study without [search] compares two or more arms of different names, got "
            f"{[arm.name for arm in arms]}",
            fix="add an [[arm]]",
        )
    own = values.get("study", {})
    _check_keys(own, _STUDY, f"{path}: [study]")
    with _naming(str(path)):
        ladder = from_dict(LadderOptions, values["ladder"], "ladder")
    spec = StudySpec(
        name=name,
        question=values.get("question", ""),
        rationale=values.get("rationale", ""),
        base=base or _read_base(values["base"], path),
        ladder=ladder,
        arms=arms,
        pool=own.get("pool"),
        demonstration=own.get("demonstration", False),
        scale=scale,
        search=search,
    )
    _check_arms(spec, path)
    return spec


def _check_keys(values: Any, kinds: _Kinds, where: str) -> None:
    """Refuse unknown keys and values of the wrong kind."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {values!r} is not a table", f"known keys: {', '.join(kinds)}")
    for key, value in values.items():
        if key not in kinds:
            close = nearest(key, kinds)
            fix = f"did you mean {close}?" if close else ""
            raise ConfigError(f"{where}: unknown key {key!r}", f"known: {', '.join(kinds)}", fix)
        if not isinstance(value, kinds[key]):
            raise ConfigError(f"{where}: {key} must be {_WORDS[kinds[key]]}, got {value!r}")


def _apply_scale(values: Table, scale: str, path: Path) -> Table:
    """Lay `[scale.NAME]` over base and ladder, and its `set.ARM` over the options of arms."""
    scales = values.get("scale", {})
    if scale not in scales:
        raise ConfigError(
            f"{path}: there is no [scale.{scale}]",
            f"scales of this file: {', '.join(scales) or 'none'}",
            "name one of them, or leave --scale and use_scale out",
        )
    _check_keys(scales[scale], _SCALE, f"{path}: [scale.{scale}]")
    changes, names = scales[scale].get("set", {}), [arm.get("name") for arm in values["arm"]]
    for name in changes:
        if name not in names:
            raise ConfigError(
                f"{path}: [scale.{scale}.set.{name}]: there is no such arm",
                fix=f"use one of {', '.join(map(str, names))}",
            )

    def lay_over(table: Table, key: str, over: Table) -> Table:
        return {**table, key: {**_flatten(table.get(key, {})), **_flatten(over)}}

    for part in ("base", "ladder"):
        values = lay_over(values, part, scales[scale].get(part, {}))
    arms = [
        lay_over(arm, "set", changes[arm["name"]]) if arm.get("name") in changes else arm
        for arm in values["arm"]
    ]
    return {**values, "arm": arms}


def _read_arm(values: Table, path: Path) -> Arm:
    if "name" not in values:
        raise ConfigError(f"{path}: an [[arm]] has no name")
    for option, how in values.get("tune", {}).items():
        if (option, how) != TUNE:
            raise ConfigError(
                f'{path}: arm {values["name"]!r}: tune = {{ "{option}" = {how!r} }}',
                "a bracket of learning rates is the only search of an arm",
                'write tune = { "optim.learning_rate" = "bracket" }, or try other options with '
                "[search]",
            )
    return Arm(**values)


def _read_search(values: Table, path: Path) -> SearchOptions:
    """Read `[search]`, whose options are dotted names or nested tables."""
    options = _flatten(values.get("options", {}))
    short = [tried for tried in options.values() if not isinstance(tried, list) or len(tried) < 2]
    if short or not options:
        raise ConfigError(
            f"{path}: search.options must list two or more values for each option, got {options}",
            fix='write for example "optim.weight_decay" = [0.03, 0.1, 0.3]',
        )
    rest = {key: value for key, value in values.items() if key != "options"}
    pairs = tuple((name, tuple(tried)) for name, tried in options.items())
    with _naming(str(path)):
        return replace(from_dict(SearchOptions, rest, "search"), options=pairs)


def _read_base(table: Table, path: Path) -> RunConfig:
    """Read `[base]`: preset or config, data, then dotted or nested options."""
    config, values = RunConfig(), dict(table)
    if "preset" in values:
        config = preset(str(values.pop("preset")))
    elif "config" in values:
        file = path.parent / str(values.pop("config"))
        config = from_dict(RunConfig, read_config_file(file), str(file))
    if isinstance(values.get("data"), str):
        values["data.path"] = values.pop("data")
    with _naming(f"{path}: [base]"):
        return replace_all(config, dict(_flatten(values)))


def _flatten(values: Table, place: str = "") -> Table:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{place}.{key}" if place else key
        flat |= _flatten(value, dotted) if isinstance(value, dict) else {dotted: value}
    return flat


_LADDER_SETS = {"model.dim", "model.n_layers", "model.n_heads", "model.vocab_size"}
_LADDER_SETS |= {"train.n_steps", "train.seed", "data.order_seed", "out"}


def _check_arms(spec: StudySpec, path: Path) -> None:
    if spec.search is not None:
        _check_search(spec, spec.search, path)
    names: dict[tuple[str | None, ...], str] = {}
    for arm in spec.arms:
        _check_options(arm.set, f"{path}: arm {arm.name!r} sets")
        with _naming(str(path)):
            config = spec.arm_config(arm)
        if config.train.first_batch_tokens is not None:
            raise ConfigError(
                f"{path}: arm {arm.name!r} has train.first_batch_tokens",
                "the ladder meets its FLOPs with batches of one size",
                "leave it out of a study",
            )
        if len(spec.ladder.branches) > 1 and config.optim.schedule != "wsd":
            raise ConfigError(
                f"{path}: ladder.branches need optim.schedule = 'wsd', and arm {arm.name!r} has "
                f"{config.optim.schedule!r}",
                "branches start from a trunk at a constant rate",
                'set "optim.schedule" = "wsd" in [base]',
            )
        # The data at a path is only known later, when the runs are planned.
        other = names.setdefault(
            (config.meaning_hash, config.data.path, config.eval.path), arm.name
        )
        if other != arm.name:
            raise ConfigError(
                f"{path}: arms {other!r} and {arm.name!r} mean the same",
                "their runs would be the same, too",
                "let an arm change an option",
            )


def _check_options(options: Collection[str], where: str) -> None:
    """Refuse options that the ladder sets."""
    for name in _LADDER_SETS.intersection(options):
        raise ConfigError(f"{where} {name}", "the ladder sets it at every rung", "leave it out")


def _check_search(spec: StudySpec, search: SearchOptions, path: Path) -> None:
    """Refuse a search of options that the ladder sets, or that cannot be set."""
    if len(spec.ladder.branches) > 1:
        raise ConfigError(
            f"{path}: [search] cannot be combined with ladder.branches",
            fix="search first, in a study of its own",
        )
    _check_options([name for name, _ in search.options], f"{path}: [search] tries")
    n_rungs = len(spec.ladder.flops)
    require(f"{path}: search.rung", search.rung, search.rung <= n_rungs, f"be at most {n_rungs}")
    baseline = spec.arms[0]
    for combination in search.combinations():
        with _naming(f"{path}: [search]"):
            spec.arm_config(replace(baseline, set={**baseline.set, **combination}))
