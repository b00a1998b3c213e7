"""From text to frozen configs and back: nothing misspelt, mistyped or non-finite gets through."""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ladderlm.config import (
    added_later,
    content_hash,
    execution_field,
    from_dict,
    meaning_of,
    nearest,
    read_config_file,
    replace_all,
    to_dict,
)
from ladderlm.errors import ConfigError
from ladderlm.training.run_config import RunConfig

DEFAULT = RunConfig()


def options_of(kind, place=""):
    """Return (dotted name, type) of every option below a config class."""
    hints = typing.get_type_hints(kind)
    for option in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[option.name]):
            yield from options_of(hints[option.name], f"{place}{option.name}.")
        else:
            yield place + option.name, hints[option.name]


OPTIONS = dict(options_of(RunConfig))
SINGLE = {name: kind for name, kind in OPTIONS.items() if typing.get_origin(kind) is not tuple}
NUMBERS = [name for name, kind in SINGLE.items() if {int, float} & {kind, *typing.get_args(kind)}]
WHOLE = [name for name, kind in SINGLE.items() if int in {kind, *typing.get_args(kind)}]
TEXTS = [name for name, kind in OPTIONS.items() if str in {kind, *typing.get_args(kind)}]
CHOICES = [name for name, kind in OPTIONS.items() if typing.get_origin(kind) is Literal]
SWITCHES = [name for name, kind in OPTIONS.items() if kind is bool]


def nested(dotted, value):
    """Return the table that a file with one option would hold."""
    for place in reversed(dotted.split(".")):
        value = {place: value}
    return value


def option_at(config, dotted):
    for place in dotted.split("."):
        config = getattr(config, place)
    return config


def refused(dotted, value):
    """Read a file with one option, expecting an error; return it."""
    with pytest.raises(ConfigError) as caught:
        from_dict(RunConfig, nested(dotted, value))
    return caught.value


def test_the_options_are_told_apart_by_kind():
    assert len(NUMBERS) > 25
    assert len(CHOICES) >= 5
    assert "data.mask_documents" in SWITCHES
    assert {"train.n_steps", "model.vocab_size"} <= set(WHOLE)
    assert {"data.path", "out"} <= set(TEXTS)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 1e400, 10**400, -(10**400)],
    ids=["nan", "inf", "-inf", "1e400", "10**400", "-10**400"],
)
def test_a_number_that_is_not_finite_is_refused_by_name(name, value):
    """T19: NaN, infinity, 1e400 in any spelling."""
    assert name in refused(name, value).what


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.5, -(2**70)])
def test_no_option_is_negative(name, value):
    """T19: a negative number is refused before a run starts."""
    assert name.split(".")[-1] in refused(name, value).what


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, "1", "", [1], {"a": 1}, {}])
def test_a_number_of_another_type_is_refused_by_name(name, value):
    """T19: wrong type, true for 1 included."""
    assert name in refused(name, value).what


@pytest.mark.parametrize("name", WHOLE)
def test_a_count_with_a_fraction_is_refused_by_name(name):
    assert name in refused(name, 64.5).what


@pytest.mark.parametrize("name", [*TEXTS, *CHOICES])
@pytest.mark.parametrize("value", [1, 1.5, True, [1], {"a": "b"}])
def test_a_word_of_another_type_is_refused_by_name(name, value):
    """T19: wrong type."""
    assert name in refused(name, value).what


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [0, 1, "true", None, 1.0])
def test_a_switch_is_true_or_false(name, value):
    assert name in refused(name, value).what


@pytest.mark.parametrize("name", [name for name in OPTIONS if None is not option_at(DEFAULT, name)])
def test_none_is_refused_where_it_means_nothing(name):
    if type(None) in typing.get_args(OPTIONS[name]):
        assert option_at(from_dict(RunConfig, nested(name, None)), name) is None
    else:
        assert name.split(".")[-1] in refused(name, None).what


@pytest.mark.parametrize("name", [name for name in OPTIONS if len(name.split(".")[-1]) > 3])
@pytest.mark.parametrize("damage", ["doubled", "dropped", "swapped"])
def test_a_misspelt_option_is_refused_with_the_nearest_name(name, damage):
    """T19: unknown key."""
    last = name.split(".")[-1]
    wrong = {
        "doubled": last[:2] + last[1:],
        "dropped": last[:-2] + last[-1:],
        "swapped": last[:1] + last[2] + last[1] + last[3:],
    }[damage]
    dotted = name.removesuffix(last) + wrong
    if dotted in OPTIONS or wrong == last:
        return
    error = refused(dotted, 1)
    assert f"unknown option config.{dotted}" in error.what
    assert error.fix == f"did you mean config.{name}?"


@given(st.text(max_size=12))
def test_no_unknown_key_is_ignored(key):
    """T19: any word that is not an option."""
    for place in ("", "model.", "optim.", "data.", "train.", "eval.", "checkpoint.", "execution."):
        tables = {option.name for option in dataclasses.fields(RunConfig)}
        assume("." not in key and place + key not in OPTIONS and key not in tables)
        error = refused(place + key, 1)
        assert "unknown option" in error.what
        assert error.fix


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(OPTIONS)), JUNK, max_size=3))
def test_junk_gives_a_valid_config_or_an_error_that_names_it(options):
    """T19: whatever a file holds, it is refused in words or means what it says."""
    values = {}
    for dotted, value in options.items():
        *places, last = dotted.split(".")
        table = values
        for place in places:
            table = table.setdefault(place, {})
        table[last] = value
    try:
        config = from_dict(RunConfig, values)
    except ConfigError:
        return
    for dotted, value in options.items():
        found = option_at(config, dotted)
        assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.timeout(10)
@pytest.mark.parametrize("dim", [2**31 - 1, 2**31 - 2, 1_000_000_007])
def test_a_huge_width_that_does_not_split_is_refused_at_once(dim):
    """I07: the advice which heads would fit is not worth minutes."""
    assert "must split into" in refused("model", {"dim": dim, "n_heads": 16}).what


@pytest.mark.parametrize("value", [[], "x", 1, None])
@pytest.mark.parametrize("name", ["config", "model"])
def test_what_is_not_a_table_is_refused(name, value):
    with pytest.raises(ConfigError, match="must be a table of options"):
        from_dict(RunConfig, value if name == "config" else {name: value})


SIZES = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {
                "n_heads": st.sampled_from([2, 4]),
                "dim": st.sampled_from([32, 64, 96]),
                "max_seq_len": st.integers(64, 128),
            },
            optional={
                "n_kv_heads": st.sampled_from([None, 1, 2]),
                "vocab_size": st.none() | st.integers(1, 2**31 - 1),
                "mlp": st.sampled_from(["swiglu", "gelu"]),
                "ffn_dim_multiplier": st.none() | st.floats(0.1, 10),
                "dropout": st.floats(0, 0.9),
            },
        ),
        "data": st.fixed_dictionaries(
            {"seq_len": st.sampled_from([16, 32, 64])},
            optional={
                "path": st.none() | st.text(),
                "packing": st.sampled_from(["concat", "padded", "best-fit"]),
                "mask_documents": st.booleans(),
                "order_seed": st.integers(0, 2**32 - 1),
            },
        ),
        "train": st.fixed_dictionaries(
            {"global_batch_tokens": st.sampled_from([64, 6400, 6.4e4])},
            optional={"n_steps": st.integers(1, 10**6), "seed": st.integers(0, 2**32 - 1)},
        ),
    },
    optional={
        "optim": st.fixed_dictionaries(
            {},
            optional={
                "learning_rate": st.floats(1e-9, 1) | st.integers(1, 3),
                "grad_clip": st.none() | st.floats(0.1, 10),
                "schedule": st.sampled_from(["cosine", "wsd"]),
            },
        ),
        "eval": st.fixed_dictionaries(
            {}, optional={"sample_prompts": st.lists(st.text(), max_size=3)}
        ),
        "execution": st.fixed_dictionaries(
            {}, optional={"n_threads": st.none() | st.integers(1, 99)}
        ),
        "out": st.none() | st.text(),
    },
)


@given(SIZES)
def test_a_config_survives_the_way_to_json_and_back(values):
    config = from_dict(RunConfig, values)
    again = from_dict(RunConfig, json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert again.run_id == config.run_id


@given(SIZES, SIZES)
def test_equal_meaning_gives_equal_names_and_other_meaning_other_names(one, other):
    a, b = from_dict(RunConfig, one), from_dict(RunConfig, other)
    assert (a.run_id == b.run_id) == (meaning_of(a) == meaning_of(b))
    carried_out_like_b = dataclasses.replace(a, execution=b.execution, out=b.out)
    assert carried_out_like_b.run_id == a.run_id


EXECUTION = [
    ("out", "elsewhere"),
    ("data.path", "elsewhere"),
    ("eval.path", "elsewhere"),
    ("execution.device", "cpu"),
    ("execution.n_threads", 7),
    ("execution.micro_batch_seqs", 3),
    ("checkpoint.every_steps", 11),
    ("checkpoint.keep", 5),
    ("eval.n_samples", 9),
    ("model.attention", "reference"),
]
MEANING = [
    ("model.dim", 64),
    ("model.mlp", "gelu"),
    ("optim.learning_rate", 1e-3),
    ("data.packing", "padded"),
    ("data.mask_documents", False),
    ("data.n_lanes", 1),
    ("data.order_seed", 2),
    ("data.fingerprint", "f"),
    ("data.tokenizer_fingerprint", "f"),
    ("eval.fingerprint", "f"),
    ("eval.n_documents", 5),
    ("train.seed", 2),
    ("train.n_steps", 5),
    ("train.global_batch_tokens", 256),
]


@pytest.mark.parametrize(("name", "value"), EXECUTION)
def test_how_a_run_is_carried_out_does_not_change_its_name(name, value):
    changed = replace_all(DEFAULT, {name: value})
    assert option_at(changed, name) == value != option_at(DEFAULT, name)
    assert changed.run_id == DEFAULT.run_id
    assert meaning_of(changed) == meaning_of(DEFAULT)


@pytest.mark.parametrize(("name", "value"), MEANING)
def test_what_can_change_a_number_changes_the_name(name, value):
    changed = replace_all(DEFAULT, {name: value})
    assert option_at(changed, name) == value
    assert changed.run_id != DEFAULT.run_id


def test_whole_numbers_and_fractions_of_one_value_have_one_name():
    one = from_dict(RunConfig, {"optim": {"learning_rate": 1}, "train": {"n_steps": 1e6}})
    two = from_dict(RunConfig, {"optim": {"learning_rate": 1.0}, "train": {"n_steps": 1000000}})
    assert one == two
    assert one.run_id == two.run_id
    assert isinstance(one.train.n_steps, int)


@dataclass(frozen=True, kw_only=True)
class Old:
    width: int = 4
    place: str | None = execution_field(None)


@dataclass(frozen=True, kw_only=True)
class New(Old):
    bias: bool = added_later(False)


@dataclass(frozen=True, kw_only=True)
class Outer:
    part: New = field(default_factory=New)
    shape: tuple[int, float] = (1, 2.0)
    kind: Literal["a", "b"] = "a"
    needed: int


def test_a_field_added_later_keeps_old_names_while_it_is_neutral():
    assert meaning_of(New()) == meaning_of(Old()) == {"width": 4}
    assert meaning_of(New(bias=True)) == {"width": 4, "bias": True}
    assert content_hash(meaning_of(New(bias=True))) != content_hash(meaning_of(Old()))


def test_a_missing_option_without_default_is_named():
    with pytest.raises(ConfigError, match=r"config\.needed is missing"):
        from_dict(Outer, {})


@pytest.mark.parametrize("value", [[1], [1, 2.0, 3], "12", [1.5, 2.0], [1, "2"], 5])
def test_a_tuple_has_its_length_and_types(value):
    assert from_dict(Outer, {"needed": 1, "shape": [3, 4]}).shape == (3, 4.0)
    with pytest.raises(ConfigError, match="shape"):
        from_dict(Outer, {"needed": 1, "shape": value})


def test_a_word_outside_a_choice_is_refused_with_the_choices():
    error = refused("model.mlp", "swigluu")
    assert "one of ['swiglu', 'gelu', 'relu2'], got 'swigluu'" in error.what
    assert error.fix == "did you mean 'swiglu'?"


def test_one_option_is_replaced_and_the_rest_kept():
    changed = replace_all(DEFAULT, {"optim.learning_rate": 0.5})
    assert changed == dataclasses.replace(
        DEFAULT, optim=dataclasses.replace(DEFAULT.optim, learning_rate=0.5)
    )
    assert DEFAULT.optim.learning_rate != 0.5


def test_options_that_are_valid_only_together_may_come_in_any_order():
    options = {"train.global_batch_tokens": 300, "data.seq_len": 100}
    for items in (list(options.items()), list(options.items())[::-1]):
        assert replace_all(DEFAULT, dict(items)).global_batch_seqs == 3
        with pytest.raises(ConfigError, match="must be a multiple of"):
            replace_all(DEFAULT, {"data.seq_len": 100})


@pytest.mark.parametrize(
    ("dotted", "fix"),
    [
        ("optim.learning_rat", "did you mean optim.learning_rate?"),
        ("optin.learning_rate", "did you mean optim?"),
        ("", "choose one of model, "),
    ],
)
def test_replacing_what_is_not_there_is_refused_with_the_nearest(dotted, fix):
    with pytest.raises(ConfigError, match="unknown option") as caught:
        replace_all(DEFAULT, {dotted: 1})
    assert caught.value.fix.startswith(fix)


@pytest.mark.parametrize(("dotted", "end"), [("out.deeper", "out"), ("model.dim.x.y", "model.dim")])
def test_replacing_below_an_option_says_where_the_path_ends(dotted, end):
    with pytest.raises(ConfigError) as caught:
        replace_all(DEFAULT, {dotted: 1})
    assert caught.value.what == f"unknown option {dotted}: {end} is one option, not a table"


def test_replacing_checks_types_and_the_whole():
    with pytest.raises(ConfigError, match=r"train\.n_steps"):
        replace_all(DEFAULT, {"train.n_steps": "many"})
    with pytest.raises(ConfigError, match="heads"):
        replace_all(DEFAULT, {"model.n_heads": 3})


def test_the_nearest_word_is_close_or_none():
    assert nearest("learnign_rate", ["learning_rate", "eps"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate", "eps"]) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", '[model]\ndim = 64\n[optim]\nlearning_rate = 1e-3\nname = "muon"\n'),
        ("a.json", '{"model": {"dim": 64}, "optim": {"learning_rate": 1e-3, "name": "muon"}}'),
    ],
)
def test_toml_and_json_files_say_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    config = from_dict(RunConfig, read_config_file(tmp_path / name))
    assert (config.model.dim, config.optim.name, config.optim.learning_rate) == (64, "muon", 1e-3)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.toml", b"[model]\ndim = \n", "line 2"),
        ("a.toml", b"dim = 1\ndim = 2\n", "line 2"),
        ("a.json", b'{"model":\n {"dim": }}', "line 2"),
        ("a.json", b"[1]", "must hold a table of options, got a list"),
        ("a.json", b"[" * 100_000, "a.json"),
        ("a.json", b'{"a": ' + b"1" * 5000 + b"}", "a.json"),
        ("a.toml", b"\xff\xfe", "cannot read"),
        ("a.toml", None, "cannot read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config_file(tmp_path / name)
    assert name in caught.value.what
    assert told in caught.value.what


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "1" + "0" * 400])
def test_toml_spellings_of_what_is_not_finite_are_refused(tmp_path, text):
    """T19: as a hand would write them."""
    (tmp_path / "a.toml").write_text(f"[optim]\nlearning_rate = {text}\n")
    with pytest.raises(ConfigError, match=r"optim\.learning_rate"):
        from_dict(RunConfig, read_config_file(tmp_path / "a.toml"))


def test_a_hash_depends_on_content_and_not_on_the_order_of_keys():
    assert content_hash({"a": 1, "b": [1, "é"]}) == content_hash({"b": [1, "é"], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert content_hash([1, 2]) != content_hash([2, 1])
