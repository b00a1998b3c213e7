"""The study file: read whole or refused with what to mend, kept beside its results."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from builders import tiny_study, write_study
from ladderlm.errors import ConfigError
from ladderlm.study.ladder import ShapeGrid, Target, choose_shape
from ladderlm.study.options import LadderOptions
from ladderlm.study.spec import read_stored_study, read_study, store_study


@pytest.fixture
def write(tmp_path, tiny_data):
    """Write the tiny study with changes; return its path."""
    return lambda **changes: write_study(tmp_path / "study.toml", tiny_study(tiny_data, **changes))


def arms(*sets):
    return [{"name": f"arm-{i}", "set": options} for i, options in enumerate(sets)]


def test_a_study_is_read_as_it_is_written(write, tiny_data):
    spec = read_study(write())
    assert (spec.name, spec.question, spec.rationale) == (
        "tiny",
        "Is SwiGLU better than GELU?",
        "A test.",
    )
    assert spec.base.data.path == str(tiny_data)
    assert (spec.base.model.dim, spec.base.eval.n_evals, spec.base.data.seq_len) == (16, 3, 32)
    assert [arm.name for arm in spec.arms] == ["swiglu", "gelu"]
    assert [spec.arm_config(arm).model.mlp for arm in spec.arms] == ["swiglu", "gelu"]
    assert spec.ladder.tokens_per_param == 0.5
    assert (spec.pool, spec.demonstration) == (None, False)


def test_the_example_of_the_docs_is_read(tmp_path):
    """Base from a preset, dotted and nested options, extra seeds, pool and demonstration."""
    path = tmp_path / "study.toml"
    path.write_text(
        """
name = "swiglu-vs-gelu"
[base]
preset = "llama"
data = "some/data"
"eval.n_samples" = 0
[base.optim]
learning_rate = 0.01
[ladder]
flops = [1e13, 1e14]
seeds = [1]
extra_seeds = [2, 3]
extra_seed_rungs = 1
[study]
pool = "runs"
demonstration = true
[[arm]]
name = "swiglu"
[[arm]]
name = "gelu"
hypothesis = "It is worse."
set = { "model.mlp" = "gelu" }
"""
    )
    spec = read_study(path)
    assert (spec.base.data.path, spec.base.eval.n_samples) == ("some/data", 0)
    assert spec.base.optim.learning_rate == 0.01
    assert (spec.pool, spec.demonstration) == ("runs", True)
    assert [spec.ladder.seeds_of(rung) for rung in (0, 1)] == [(1, 2, 3), (1,)]
    assert spec.arms[1].hypothesis == "It is worse."


def test_a_base_may_come_from_a_config_beside_the_study(write, tmp_path, tiny_data):
    (tmp_path / "base.toml").write_text("[optim]\nlearning_rate = 0.125\n[train]\nn_steps = 5\n")
    spec = read_study(write(base={"config": "base.toml", "data": str(tiny_data)}))
    assert (spec.base.optim.learning_rate, spec.base.train.n_steps) == (0.125, 5)


MISSPELT = {
    "top": ({"nme": "x"}, "nme", "name"),
    "base": ({"base": {"model.dmi": 8}}, "model.dmi", "model.dim"),
    "base table": ({"base": {"modle": {"dim": 8}}}, "modle", "model"),
    "preset": ({"base": {"preset": "lama"}}, "lama", "llama"),
    "ladder": ({"ladder": {"flop": [1e9]}}, "flop", "flops"),
    "arm": ({"arm": [{"name": "a", "hypotesis": "x"}, {"name": "b"}]}, "hypotesis", "hypothesis"),
    "arm option": (
        {"arm": arms({}, {"optim.learing_rate": 1e-3})},
        "learing_rate",
        "learning_rate",
    ),
    "study": ({"study": {"demonstratoin": True}}, "demonstratoin", "demonstration"),
}


@pytest.mark.parametrize(("changes", "word", "meant"), MISSPELT.values(), ids=MISSPELT)
def test_an_unknown_key_is_refused_and_the_nearest_one_named(write, changes, word, meant):
    """T19: a misspelt key that is ignored would change the experiment in silence."""
    with pytest.raises(ConfigError) as caught:
        read_study(write(**changes))
    assert word in caught.value.what
    assert f"did you mean {meant}?" in caught.value.fix or f".{meant}?" in caught.value.fix


@pytest.mark.parametrize("part", ["name", "base", "ladder", "arm"])
def test_a_missing_part_is_named(write, part):
    with pytest.raises(ConfigError, match=f"'{part}' is missing"):
        read_study(write(**{part: None}))


WRONG = {
    "one arm": ({"arm": [{"name": "a"}]}, "compares two or more arms"),
    "equal names": ({"arm": [{"name": "a"}, {"name": "a"}]}, "of different names"),
    "arm without a name": ({"arm": [{"name": "a"}, {}]}, "has no name"),
    "arm table": ({"arm": {"name": "a"}}, "arm"),
    "arm text": ({"arm": ["a", "b"]}, "arm"),
    "arm name": ({"arm": [{"name": 1}, {"name": "b"}]}, "name"),
    "set is text": ({"arm": [{"name": "a"}, {"name": "b", "set": "model.mlp"}]}, "set"),
    "option of an arm": (
        {"arm": arms({}, {"model.mpl": "gelu"})},
        "study.toml: arm 'arm-1': unknown option model.mpl",
    ),
    "value of an arm": (
        {"arm": arms({}, {"model.mlp": "gleu"})},
        "arm 'arm-1': config.model.mlp must be one of ['swiglu', 'gelu', 'relu2'], got 'gleu'",
    ),
    "tuned otherwise": (
        {"arm": [{"name": "a", "tune": {"optim.weight_decay": "bracket"}}, {"name": "b"}]},
        "arm 'a': tune = { \"optim.weight_decay\" =",
    ),
    "tuned how": (
        {"arm": [{"name": "a", "tune": {"optim.learning_rate": "brackets"}}, {"name": "b"}]},
        "'brackets'",
    ),
    "ladder": ({"ladder": {"flops": [2e9, 1e9]}}, "study.toml: ladder.flops"),
    "hypothesis": ({"arm": [{"name": "a"}, {"name": "b", "hypothesis": 3}]}, "hypothesis"),
    "base text": ({"base": "llama"}, "base"),
    "study text": ({"study": "x"}, "study"),
    "pool": ({"study": {"pool": 3}}, "pool"),
    "demonstration": ({"study": {"demonstration": "no"}}, "demonstration"),
    "question": ({"question": ["x"]}, "question"),
    "path in the name": ({"name": "../x"}, "it names a folder"),
    "no name": ({"name": ""}, "it names a folder"),
    "two equal arms": ({"arm": arms({}, {"model.mlp": "swiglu"})}, "mean the same"),
    "only execution": ({"arm": arms({}, {"execution.n_threads": 2})}, "mean the same"),
    "wrong value": ({"arm": arms({}, {"model.mlp": "gleu"})}, "gelu"),
    "wrong type": ({"arm": arms({}, {"optim.learning_rate": "fast"})}, "learning_rate"),
    "ladder sets dim": ({"arm": arms({}, {"model.dim": 64})}, "the ladder sets it"),
    "ladder sets layers": ({"arm": arms({}, {"model.n_layers": 3})}, "the ladder sets it"),
    "ladder sets heads": ({"arm": arms({}, {"model.n_heads": 4})}, "the ladder sets it"),
    "ladder sets steps": ({"arm": arms({}, {"train.n_steps": 9})}, "the ladder sets it"),
    "ladder sets seed": ({"arm": arms({}, {"train.seed": 9})}, "the ladder sets it"),
    "ladder sets order": ({"arm": arms({}, {"data.order_seed": 9})}, "the ladder sets it"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_a_study_that_cannot_be_meant_is_refused(write, changes, said):
    with pytest.raises(ConfigError) as caught:
        read_study(write(**changes))
    assert said in str(caught.value)


LADDERS = {
    "falling": {"flops": (1e9, 1e8)},
    "equal": {"flops": (1e9, 1e9)},
    "negative": {"flops": (-1e9, 1e9)},
    "none": {"flops": ()},
    "no seeds": {"seeds": ()},
    "repeated seed": {"seeds": (1, 1)},
    "seed twice": {"seeds": (1, 2), "extra_seeds": (2,)},
    "tokens": {"tokens_per_param": 0.0},
    "aspect": {"aspect_ratio": -1.0},
    "updates": {"min_updates": 0},
    "holdout": {"holdout": 2},
    "negative holdout": {"holdout": -1},
    "negative extra rungs": {"extra_seed_rungs": -1},
}


@pytest.mark.parametrize("change", LADDERS.values(), ids=LADDERS)
def test_a_ladder_that_is_none_is_refused(change):
    with pytest.raises(ConfigError, match=r"ladder\."):
        LadderOptions(**{"flops": (1e8, 1e9), **change})


def test_options_that_are_only_valid_together_may_come_in_any_order(write, tiny_data):
    """A warm-up of 0.9 is refused under WSD unless its decay shrinks as well."""
    base = tiny_study(tiny_data)["base"] | {"optim.schedule": "wsd"}
    both = {"optim.warmup_fraction": 0.9, "optim.decay_fraction": 0.1}
    for options in (both, dict(reversed(both.items()))):
        spec = read_study(write(base=base, arm=arms({}, options)))
        found = spec.arm_config(spec.arms[1]).optim
        assert (found.warmup_fraction, found.decay_fraction) == (0.9, 0.1)
    with pytest.raises(ConfigError):
        read_study(write(base=base, arm=arms({}, {"optim.warmup_fraction": 0.9})))


@pytest.mark.parametrize("text", ["name = ", "[[arm]", "name = 'x'\nname = 'y'", "\x00"])
def test_a_file_that_is_not_toml_is_named_with_its_place(tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        read_study(tmp_path / "bad.toml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        read_study(tmp_path / "none.toml")


def test_a_stored_study_comes_back_as_it_was(write, tmp_path):
    path = write(study={"demonstration": True})
    spec = read_study(path)
    store_study(tmp_path / "out", path, spec)
    assert read_stored_study(tmp_path / "out") == spec
    assert (tmp_path / "out/study.toml").read_bytes() == path.read_bytes()


def test_a_stored_study_stands_without_its_config_file(write, tmp_path, tiny_data):
    """The base is kept as it came out, so a later edit elsewhere cannot change it."""
    other = tmp_path / "base.toml"
    other.write_text("[optim]\nlearning_rate = 0.125\n")
    path = write(base={"config": "base.toml", "data": str(tiny_data)})
    store_study(tmp_path / "out", path, read_study(path))
    other.unlink()
    assert read_stored_study(tmp_path / "out").base.optim.learning_rate == 0.125


def test_a_changed_study_file_is_replaced_and_the_difference_said(write, tmp_path, caplog):
    """S06: results of the old file stay under their own ids."""
    path = write()
    store_study(tmp_path / "out", path, read_study(path))
    with caplog.at_level(logging.WARNING):
        store_study(tmp_path / "out", path, read_study(path))
    assert not caplog.records
    path = write(question="Another question?")
    with caplog.at_level(logging.WARNING):
        store_study(tmp_path / "out", path, read_study(path))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert '-"question" = "Is SwiGLU better than GELU?"' in said
    assert '+"question" = "Another question?"' in said
    assert "stay in the pool" in said
    assert read_stored_study(tmp_path / "out").question == "Another question?"


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a study folder"):
        read_stored_study(tmp_path)


SCALED = """
name = "scaled"
[base]
preset = "llama"
data = "small"
"data.seq_len" = 64
[ladder]
flops = [1e12, 1e13]
seeds = [1]
[scale.big.base]
data = "large"
"data.seq_len" = 128
[scale.big.ladder]
flops = [1e15, 1e16]
[scale.big.set.few]
"model.n_kv_heads" = 4
[[arm]]
name = "all"
[[arm]]
name = "few"
set = { "model.n_kv_heads" = 2, "optim.beta1" = 0.7 }
"""


def test_a_scale_is_laid_over_base_ladder_and_arms(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(SCALED)
    small, big = read_study(path), read_study(path, scale="big")
    assert (small.name, small.base.data.path, small.base.data.seq_len) == ("scaled", "small", 64)
    assert (big.name, big.base.data.path, big.base.data.seq_len) == ("scaled-big", "large", 128)
    assert (small.ladder.flops, big.ladder.flops) == ((1e12, 1e13), (1e15, 1e16))
    assert big.ladder.seeds == (1,)
    assert small.arms[1].set == {"model.n_kv_heads": 2, "optim.beta1": 0.7}
    assert big.arms[1].set == {"model.n_kv_heads": 4, "optim.beta1": 0.7}
    store_study(tmp_path, path, big)
    again = read_stored_study(tmp_path)
    assert (again, again.scale) == (big, "big")
    store_study(tmp_path, tmp_path / "study.toml", again)
    assert read_stored_study(tmp_path) == big


@pytest.mark.parametrize(
    ("scale", "change", "message"),
    [
        ("huge", ("", ""), r"no \[scale.huge\].*\n.*big"),
        ("big", ("big.set.few", "big.set.fewer"), "no such arm"),
        ("big", ("scale.big.ladder", "scale.big.laddr"), "did you mean ladder"),
        ("big", ('data = "large"', 'datta = "large"'), "datta"),
    ],
)
def test_a_scale_that_cannot_be_laid_over_is_refused(tmp_path, scale, change, message):
    path = tmp_path / "study.toml"
    path.write_text(SCALED.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_study(path, scale=scale)


READY = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


@pytest.mark.parametrize("scale", [None, "gpu"])
@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_every_rung_of_the_ready_studies_can_be_met(path, scale):
    spec = read_study(path, scale=scale)
    vocab_size = 32_000 if scale else 2_048
    base = replace(spec.base.model, vocab_size=vocab_size)
    models = [spec.arm_config(arm).model for arm in spec.arms]
    group = math.lcm(*(model.n_heads // model.kv_heads for model in models))
    ladder = spec.ladder
    assert ladder.flops[-1] / ladder.flops[0] >= 99
    target = Target(ladder.tokens_per_param)
    grid = ShapeGrid(base, spec.base.data.seq_len, ladder.aspect_ratio, group)
    for budget in ladder.flops:
        assert choose_shape(budget, target, grid).dim % spec.base.model.head_dim == 0
    assert all(arm.tune for arm in spec.arms)
    assert spec.question
    assert spec.rationale


def test_there_are_ready_studies():
    assert len(READY) >= 7
