"""A search: every combination or so many, better halves rung by rung, inside of a budget."""

import json
import tomllib

import pytest

from builders import TINY_LADDER, tiny_study, write_study
from ladderlm.config import from_dict, meaning_of
from ladderlm.errors import ConfigError
from ladderlm.study.plan import plan_study
from ladderlm.study.results import collect_results
from ladderlm.study.search import to_toml
from ladderlm.study.spec import read_study
from ladderlm.training.run_config import RunConfig
from reference.planted import Planted, carry_out

DECAYS, RATES = [0.01, 0.03, 0.1, 0.3], [0.01, 0.02, 0.04]


@pytest.fixture
def spec_of(tiny_data, tmp_path):
    """Read a study of one arm and a search of twelve combinations, with changes to it."""

    def give(**search):
        options = {"optim.weight_decay": DECAYS, "optim": {"learning_rate": RATES}}
        values = tiny_study(tiny_data, arm=[{"name": "base"}])
        wanted = {"flops": 1e12, "options": options, **search}
        values["search"] = {key: value for key, value in wanted.items() if value is not None}
        return read_study(write_study(tmp_path / "s.toml", values))

    return give


def bowl(flops, config):
    """Best at a decay of 0.1 and the largest rate."""
    off = abs(DECAYS.index(config.optim.weight_decay) - 2)
    return 2 + 0.1 * off - config.optim.learning_rate


def test_a_grid_tries_every_combination_once_at_its_rung(spec_of, tmp_path):
    spec, executor = spec_of(rung=2), Planted(bowl)
    plan = carry_out(spec, tmp_path / "pool", executor)[-1]
    tried = [run for run in plan.runs if run.role == "search"]
    optim = {(run.config.optim.weight_decay, run.config.optim.learning_rate) for run in tried}
    assert optim == {(decay, rate) for decay in DECAYS for rate in RATES}
    assert {run.rung.index for run in tried} == {1}
    assert len(executor.started) == len(set(executor.started)) == 12 + 3
    found = plan.found
    assert found.best.options == {"optim.weight_decay": 0.1, "optim.learning_rate": 0.04}
    assert found.edges == ("optim.learning_rate",)
    losses = [row.bits_per_byte for row in found.rows]
    assert losses == sorted(losses)
    rows = collect_results(plan, tmp_path / "pool")
    assert [row.role for row in rows].count("search") == 12
    assert len(rows.points()) == 3


def test_halving_sends_the_better_half_to_the_next_rung(spec_of, tmp_path):
    plans = carry_out(spec_of(rung=3, method="halving"), tmp_path / "pool", Planted(bowl))
    first = [run for run in plans[0].runs if run.role == "search"]
    assert [run.provisional for run in first] == [False] * 12 + [True] * 9
    found = plans[-1].found
    per_rung = {rung: [row for row in found.rows if row.rung == rung] for rung in (1, 2, 3)}
    assert [len(rows) for rows in per_rung.values()] == [12, 6, 3]
    for rung in (1, 2):
        better = [row.options for row in per_rung[rung]][: len(per_rung[rung]) // 2]
        kept = [row.options for row in per_rung[rung + 1]]
        assert sorted(map(str, kept)) == sorted(map(str, better))
    assert found.best.rung == 3
    assert found.best.options["optim.weight_decay"] == 0.1


def test_a_random_search_draws_so_many_by_its_seed(spec_of, tmp_path):
    drawn = [
        spec_of(method="random", n_samples=5, seed=seed).search.combinations() for seed in (1, 1, 2)
    ]
    assert len(drawn[0]) == 5
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({str(options) for options in drawn[0]}) == 5
    assert all(options in spec_of().search.combinations() for options in drawn[0])


def test_a_failed_run_is_kept_in_the_table_and_never_best(spec_of, tmp_path):
    """S02: the largest rate diverges."""
    loss = lambda flops, c: None if c.optim.learning_rate == 0.04 else bowl(flops, c)  # noqa: E731
    found = carry_out(spec_of(), tmp_path / "pool", Planted(loss))[-1].found
    assert [row.bits_per_byte for row in found.rows][-4:] == [None] * 4
    assert found.best.options["optim.learning_rate"] == 0.02
    assert found.edges == ()


def test_what_was_found_can_be_trained_again(spec_of, tmp_path):
    """The TOML comes to the run of the best, but for what its data fills in."""
    plan = carry_out(spec_of(), tmp_path / "pool", Planted(bowl))[-1]
    config = from_dict(RunConfig, tomllib.loads(to_toml(plan.found.config)))
    assert config.data.path == plan.found.config.data.path
    wanted, got = meaning_of(plan.found.config), meaning_of(config)
    for part, name in (
        ("data", "fingerprint"),
        ("data", "tokenizer_fingerprint"),
        ("eval", "fingerprint"),
    ):
        wanted[part][name] = got[part][name]
    assert got == wanted


def test_a_search_beyond_its_budget_is_refused_before_it_begins(spec_of, tmp_path):
    with pytest.raises(ConfigError, match=r"take 2\.65e9 FLOPs, more than its budget of 1\.00e9"):
        plan_study(spec_of(flops=1e9), tmp_path / "pool")
    assert plan_study(spec_of(flops=12.5 * TINY_LADDER[0]), tmp_path / "pool")


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ({"options": {}}, "two or more values"),
        ({"options": {"optim.weight_decay": [0.1]}}, "two or more values"),
        ({"options": {"optim.weight_decay": 0.1}}, "must list two or more"),
        ({"options": {"optim.weight_decoy": [0.1, 0.2]}}, "weight_decoy"),
        ({"options": {"model.dim": [16, 32]}}, "the ladder sets it"),
        ({"method": "rndom"}, "did you mean 'random'"),
        ({"method": "random"}, "n_samples"),
        ({"n_samples": 3}, "n_samples"),
        ({"rung": 9}, "search.rung must be at most 3, got 9"),
        ({"flops": None}, "flops"),
    ],
)
def test_slips_are_named(spec_of, search, says):
    with pytest.raises(ConfigError) as caught:
        spec_of(**search)
    assert says in str(caught.value)


def test_the_command_prints_the_table_and_writes_a_config(spec_of, tmp_path, monkeypatch, capsys):
    from ladderlm.cli.main import main

    monkeypatch.setattr("ladderlm.cli.study.make_executor", lambda *a: Planted(bowl))
    monkeypatch.setattr("ladderlm.cli.study._draw_study", lambda *a: None)
    spec_of()
    words = ["study", "run", str(tmp_path / "s.toml"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("search: rung 1") == 12
    assert "the best optim.learning_rate is at the edge of its values" in said
    assert "learning_rate = 0.04" in (tmp_path / "out/search.toml").read_text()
    fits = json.loads((tmp_path / "out/fits.json").read_text())
    assert fits["search"]["best"]["options"]["optim.learning_rate"] == 0.04
