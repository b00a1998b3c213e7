"""The study file.

Owns `StudySpec` and its reading from TOML. What runs it means is in `plan.py`.
"""

import contextlib
import difflib
import logging
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ladderlm.config import from_dict, nearest, read_config_file, replace_all, to_dict
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
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """One variant: options laid over the base."""

    name: str
    set: dict[str, Any] = field(default_factory=dict)
    hypothesis: str = ""
    tune: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySpec:
    """A study: a question, a base, a ladder and its arms; the first arm is the baseline.

    `scale` names the table of the file that was laid over base, ladder and arms, if one was.
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
        """Return the base with an arm's options set.

        Raises:
            ConfigError: no such option, or a value that is refused; names the arm.
        """
        with _naming(f"arm {arm.name!r}"):
            return replace_all(self.base, arm.set)


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Name the place in the study file where an option is wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.what}", error.why, error.fix) from error


def store_study(folder: Path, file: Path | str, spec: StudySpec) -> None:
    """Keep the study file and its resolved base in the study's folder.

    A file that differs from the one kept before replaces it, and the difference is logged: runs
    are named by what they mean, so results of the old file can never be taken for new ones.
    """
    text = Path(file).read_text(encoding="utf-8")
    if spec.scale is not None and tomllib.loads(text).get(USE_SCALE) != spec.scale:
        text = f'{USE_SCALE} = "{spec.scale}"\n{text}'
    kept = folder / STUDY_FILE
    if kept.is_file() and kept.read_text(encoding="utf-8") != text:
        old = kept.read_text(encoding="utf-8").splitlines()
        changes = list(difflib.unified_diff(old, text.splitlines(), lineterm="", n=0))
        shown = "; ".join(line for line in changes[2:] if not line.startswith("@@"))
        _log.warning("the study file has changed: %s", shown)
        _log.warning("finished runs of the old file stay in the pool under their own ids")
    publish_text(kept, text)
    publish_json(folder / BASE_FILE, to_dict(spec.base))


def copy_stored_study(source: Path, folder: Path) -> None:
    """Keep in a folder what `store_study` kept in another."""
    publish_text(folder / STUDY_FILE, (source / STUDY_FILE).read_text(encoding="utf-8"))
    publish_json(folder / BASE_FILE, read_json(source / BASE_FILE))


def read_stored_study(folder: Path) -> StudySpec:
    """Read back what `store_study` kept.

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


# Keys of the file and what their values must be.
_Kinds = dict[str, type]
_TOP: _Kinds = {"name": str, "question": str, "rationale": str, "base": dict, "ladder": dict}
_TOP |= {"arm": list, "study": dict, "scale": dict, USE_SCALE: str, "search": dict}
_SCALE: _Kinds = {"base": dict, "ladder": dict, "set": dict}
_STUDY: _Kinds = {"pool": str, "demonstration": bool}
_ARM: _Kinds = {"name": str, "set": dict, "hypothesis": str, "tune": dict}
_WORDS = {
    str: "text",
    dict: "a table",
    int: "a whole number",
    float: "a number",
    list: "a list of tables, [[arm]]",
    bool: "true or false",
}


def read_study(
    path: Path | str, base: RunConfig | None = None, scale: str | None = None
) -> StudySpec:
    """Read a study file.

    Args:
        path: TOML.
        scale: which of the file's `[scale.NAME]` is laid over base, ladder and arms; it becomes a
            part of the study's name. None: what the file's `use_scale` says, or none.
        base: replaces the resolved `[base]`, where that was stored before.

    Raises:
        ConfigError: unknown keys, values of the wrong kind, missing parts, an arm that changes
            nothing or sets what the ladder sets.
    """
    path = Path(path)
    values = read_config_file(path)
    _check_keys(values, _TOP, str(path))
    for needed in ("name", "base", "ladder", "arm"):
        if needed not in values:
            raise ConfigError(f"{path}: {needed!r} is missing", "", "see docs/studies.md")
    scale = scale or values.get(USE_SCALE)
    name = values["name"]
    if scale is not None:
        _apply_scale(values, scale, path)
        name = f"{name}-{scale}"
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{path}: name = {name!r}", "it names a folder", "use letters, digits, -")
    arms = tuple(_read_arm(arm, path) for arm in values["arm"])
    search = _read_search(values["search"], path) if "search" in values else None
    if len(arms) < (2 if search is None else 1) or len({arm.name for arm in arms}) < len(arms):
        raise ConfigError(
            f"{path}: arms {[arm.name for arm in arms]}",
            "a study compares two or more arms of different names, if it is no [search]",
            "add an [[arm]]",
        )
    own = values.get("study", {})
    _check_keys(own, _STUDY, f"{path}: [study]")
    with _naming(str(path)):
        ladder = from_dict(LadderOptions, values["ladder"], "ladder")
    spec = StudySpec(
        name=name,
        question=values.get("question", ""),
        rationale=values.get("rationale", ""),
        base=base or _read_base(dict(values["base"]), path),
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
            raise ConfigError(
                f"{where}: unknown key {key!r}",
                f"known: {', '.join(kinds)}",
                f"did you mean {close}?" if close else "",
            )
        if not isinstance(value, kinds[key]):
            raise ConfigError(f"{where}: {key} = {value!r}", f"it must be {_WORDS[kinds[key]]}")


def _apply_scale(values: dict[str, Any], scale: str, path: Path) -> None:
    """Lay `[scale.NAME]` over base and ladder, and its `set.ARM` over what an arm sets."""
    scales = values.get("scale", {})
    if scale not in scales:
        known = ", ".join(scales) or "none"
        raise ConfigError(
            f"{path}: there is no [scale.{scale}]",
            f"scales of this file: {known}",
            "name one of them, or leave --scale and use_scale out",
        )
    _check_keys(scales[scale], _SCALE, f"{path}: [scale.{scale}]")
    for part in ("base", "ladder"):
        values[part] = _flatten(values[part]) | _flatten(scales[scale].get(part, {}))
    arms = {arm["name"]: arm for arm in values["arm"] if "name" in arm}
    for name, changes in scales[scale].get("set", {}).items():
        if name not in arms:
            raise ConfigError(
                f"{path}: [scale.{scale}.set.{name}]",
                f"there is no such arm; arms: {', '.join(arms)}",
            )
        arms[name]["set"] = _flatten(arms[name].get("set", {})) | _flatten(changes)


def _read_arm(values: Any, path: Path) -> Arm:
    _check_keys(values, _ARM, f"{path}: [[arm]]")
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


def _read_search(values: dict[str, Any], path: Path) -> SearchOptions:
    """Read `[search]`; its options are written as dotted names or nested tables."""
    options = _flatten(values.get("options", {}))
    for name, tried in options.items():
        if not isinstance(tried, list):
            raise ConfigError(f"{path}: search.options: {name} = {tried!r}", "it must be a list")
    if not options or any(len(tried) < 2 for tried in options.values()):
        raise ConfigError(
            f"{path}: search.options = {options}",
            "a search tries two or more values of an option",
            'write for example "optim.weight_decay" = [0.03, 0.1, 0.3]',
        )
    rest = {key: value for key, value in values.items() if key != "options"}
    pairs = tuple((name, tuple(tried)) for name, tried in options.items())
    with _naming(str(path)):
        return replace(from_dict(SearchOptions, rest, "search"), options=pairs)


def _read_base(values: dict[str, Any], path: Path) -> RunConfig:
    """Read `[base]`: preset or config, data, then dotted or nested options."""
    config = RunConfig()
    if "preset" in values:
        config = preset(str(values.pop("preset")))
    elif "config" in values:
        file = path.parent / str(values.pop("config"))
        config = from_dict(RunConfig, read_config_file(file), str(file))
    if "data" in values and isinstance(values["data"], str):
        values["data.path"] = values.pop("data")
    with _naming(f"{path}: [base]"):
        return replace_all(config, _flatten(values))


def _flatten(values: dict[str, Any], place: str = "") -> dict[str, Any]:
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
    hashes: dict[tuple[str | None, ...], str] = {}
    for arm in spec.arms:
        clash = [dotted for dotted in arm.set if dotted in _LADDER_SETS]
        if clash:
            raise ConfigError(
                f"{path}: arm {arm.name!r} sets {clash[0]}",
                "the ladder sets it at every rung",
                "change the ladder, or leave it out",
            )
        with _naming(str(path)):
            config = spec.arm_config(arm)
        if config.train.first_batch_tokens is not None:
            raise ConfigError(
                f"{path}: arm {arm.name!r} has train.first_batch_tokens",
                "the ladder meets its FLOPs by counting equal batches",
                "leave it out of a study",
            )
        if len(spec.ladder.branches) > 1 and config.optim.schedule != "wsd":
            raise ConfigError(
                f"{path}: ladder.branches, and arm {arm.name!r} has optim.schedule = "
                f"{config.optim.schedule!r}",
                "branches leave a trunk whose rate is constant",
                'set "optim.schedule" = "wsd" in [base]',
            )
        # Which data lies at a path is known only later, when the runs are planned.
        digest = (config.meaning_hash, config.data.path, config.eval.path)
        if digest in hashes:
            raise ConfigError(
                f"{path}: arms {hashes[digest]!r} and {arm.name!r} mean the same",
                "two equal arms with equal seeds are one set of runs",
                "let an arm change an option",
            )
        hashes[digest] = arm.name


def _check_search(spec: StudySpec, search: SearchOptions, path: Path) -> None:
    """Refuse a search of options that the ladder sets, or that cannot be set."""
    if len(spec.ladder.branches) > 1:
        raise ConfigError(
            f"{path}: [search] with ladder.branches",
            "a search looks at one length of each size",
            "search first, in a study of its own",
        )
    clash = [name for name, _ in search.options if name in _LADDER_SETS]
    if clash:
        raise ConfigError(
            f"{path}: [search] tries {clash[0]}", "the ladder sets it", "leave it out"
        )
    if search.rung > len(spec.ladder.flops):
        raise ConfigError(
            f"{path}: search.rung = {search.rung}", f"the ladder has {len(spec.ladder.flops)} rungs"
        )
    baseline = spec.arms[0]
    for combination in search.combinations():
        with _naming(f"{path}: [search]"):
            spec.arm_config(replace(baseline, set=baseline.set | combination))
