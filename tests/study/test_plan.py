"""The plan: whole before anything runs, arms paired, names unique, finished runs left alone."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from builders import TINY_LADDER, make_records, tiny_study, write_jsonl, write_study
from ladderlm.config import meaning_of
from ladderlm.data.shards import open_data
from ladderlm.data.stream import RowStream
from ladderlm.errors import ConfigError, DataError
from ladderlm.files import publish_json
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.run.resolve import resolve
from ladderlm.study.launch import pending_runs
from ladderlm.study.plan import plan_study
from ladderlm.study.spec import read_study


@pytest.fixture
def plan_of(tmp_path, tiny_data):
    """Plan the tiny study with changes to its ladder, its base and whole tables."""

    def give(ladder=(), base=(), **changes):
        values = tiny_study(tiny_data, **changes)
        values["ladder"] |= dict(ladder)
        values["base"] |= dict(base)
        return plan_study(read_study(write_study(tmp_path / "s.toml", values)), tmp_path / "pool")

    return give


def test_every_rung_has_every_arm_with_every_seed(plan_of):
    plan = plan_of({"seeds": [1, 2], "extra_seeds": [7], "extra_seed_rungs": 1})
    found = [(run.rung.index, run.seed, run.arm) for run in plan.runs]
    assert found == [
        (rung, seed, arm)
        for rung, seeds in enumerate([(1, 2, 7), (1, 2), (1, 2)])
        for seed in seeds
        for arm in ("swiglu", "gelu")
    ]
    assert [run.rung.budget for run in plan.runs if run.seed == 1][::2] == list(TINY_LADDER)
    assert plan.flops == sum(run.rung.flops for run in plan.runs)


def test_run_ids_are_unique_and_name_the_whole_config(plan_of):
    plan = plan_of({"seeds": [1, 2]})
    assert len({run.run_id for run in plan.runs}) == len(plan.runs) == 12
    for run in plan.runs:
        assert run.run_id == run.config.run_id
        again = resolve(run.config)  # nothing is left to be filled in
        assert again == run.config
        assert run.config.out.endswith(f"pool/{run.run_id}")


def test_arms_of_a_pair_differ_in_nothing_but_the_arm_and_what_meets_the_budget(plan_of):
    plan = plan_of({"seeds": [1, 2]})
    for base, other in zip(plan.runs[::2], plan.runs[1::2], strict=True):
        assert (base.rung.index, base.seed) == (other.rung.index, other.seed)
        same = replace(
            other.config,
            model=replace(other.config.model, mlp="swiglu"),
            train=replace(
                other.config.train,
                n_steps=base.config.train.n_steps,
                global_batch_tokens=base.config.train.global_batch_tokens,
            ),
        )
        assert meaning_of(same) == meaning_of(base.config)


def test_a_seed_sets_the_weights_and_the_order_in_every_arm(plan_of):
    for run in plan_of({"seeds": [3, 5]}).runs:
        assert run.config.train.seed == run.config.data.order_seed == run.seed


def test_arms_of_a_pair_see_the_same_rows_in_the_same_order(plan_of, tiny_data):
    data = open_data(tiny_data)
    streams = {
        (run.arm, run.rung.index, run.seed): RowStream(
            data.split("train"), run.config.data, data.bos_id
        ).rows(0, 40)
        for run in plan_of({"seeds": [1, 2]}).runs
    }
    for (arm, rung, seed), rows in streams.items():
        partner = streams["swiglu", rung, seed]
        assert np.array_equal(rows.tokens, partner.tokens), arm
        assert np.array_equal(rows.document_ids, streams["swiglu", 0, seed].document_ids)
    assert not np.array_equal(streams["gelu", 0, 1].tokens, streams["gelu", 0, 2].tokens)


def test_all_arms_are_scored_on_the_same_documents(plan_of):
    evals = {
        (run.config.eval.fingerprint, run.config.eval.n_documents, run.config.eval.context)
        for run in plan_of().runs
    }
    assert len(evals) == 1


def test_planning_twice_gives_the_same_plan(plan_of):
    """S06: names rest on what is meant, never on a clock or a folder's state."""
    assert plan_of() == plan_of()
    ids = {run.run_id for run in plan_of().runs}
    assert not ids & {run.run_id for run in plan_of({"seeds": [9]}).runs}
    assert ids == {run.run_id for run in plan_of(base={"execution.n_threads": 2}).runs}


def test_rungs_meet_their_budget_and_their_ratio(plan_of):
    for run in plan_of().runs:
        assert run.rung.flops == pytest.approx(run.rung.budget, rel=0.5 / run.rung.n_steps)
        assert run.config.train.n_steps == run.rung.n_steps
        assert run.config.train.global_batch_tokens == run.rung.global_batch_tokens
        if run.arm == "swiglu":
            assert 1 / 1.21 <= run.rung.tokens_per_param / 0.5 <= 1.21  # and half a step


def test_a_budget_that_no_shape_meets_stops_the_plan(plan_of):
    with pytest.raises(ConfigError, match="a rung of 1e") as caught:
        plan_of({"flops": [1e7, 1e8]})
    assert "smallest budget that works" in caught.value.fix


def test_data_that_is_not_there_stops_the_plan(plan_of, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        plan_of(base={"data": str(tmp_path / "nowhere")})


def test_the_plan_warns_of_what_weakens_its_result(plan_of):
    said = " | ".join(plan_of().warnings)
    assert "3.0x of compute: less than a decade" in said
    assert "6 runs have fewer than 500 updates, down to" in said
    assert "repeats its data" in said
    assert "not tuned per arm" in said
    assert "the batch changes" not in said
    batches = plan_of({"min_updates": 40}).warnings
    assert any("batch and size are confounded" in warning for warning in batches)


def test_rates_that_one_layer_gives_to_several_are_warned_of_and_can_be_avoided(plan_of):
    tune = {"optim.learning_rate": "bracket"}
    arms = [{"name": "swiglu", "tune": tune}, {"name": "gelu", "tune": tune}]
    arms[1]["set"] = {"model.mlp": "gelu"}
    ladder = {"flops": [2.27e8, 1.49e9, 6e10], "min_updates": 10}
    plan = plan_of(ladder, arm=arms)
    layers = [run.rung.model.n_layers for run in plan.ladder]
    assert (min(layers), max(layers)) == (1, 3)
    assert any("have one layer and the highest 3: rates" in said for said in plan.warnings)
    plan = plan_of(ladder | {"min_layers": 2, "flops": [4.53e8, 2.62e9, 6e10]}, arm=arms)
    assert min(run.rung.model.n_layers for run in plan.runs) == 2
    assert not any("one layer" in said for said in plan.warnings)


def test_arms_that_come_to_one_run_are_refused(plan_of, tmp_path, tiny_data):
    """Two arms that differ in words and not in meaning, such as a copy of the same data."""
    shutil.copytree(tiny_data, tmp_path / "copy")
    arms = [{"name": "here"}, {"name": "there", "set": {"data.path": str(tmp_path / "copy")}}]
    with pytest.raises(ConfigError, match=r"mean the same|come to the same run"):
        plan_of(arm=arms)
    sdpa = [{"name": "auto"}, {"name": "sdpa", "set": {"model.attention": "sdpa"}}]
    with pytest.raises(ConfigError, match=r"mean the same|come to the same run"):
        plan_of(arm=sdpa)


def test_an_arm_that_names_other_data_has_said_what_follows(
    plan_of, tmp_path, tiny_data, tiny_tokenizer_folder
):
    """Hashes of the data and the vocabulary differ without being options of an arm."""
    shutil.copytree(tiny_data.parent / "corpus", tmp_path / "corpus")
    write_jsonl(tmp_path / "corpus/train.jsonl", make_records(50, seed=3))
    sources, out = (str(tmp_path / "corpus"),), str(tmp_path / "other")
    prepare(PrepareConfig(sources=sources, tokenizer=str(tiny_tokenizer_folder), out=out))
    plan = plan_of(arm=[{"name": "here"}, {"name": "there", "set": {"data.path": out}}])
    assert any(line.startswith("data.fingerprint") for line in plan.differences("there"))
    assert not any("more than it says" in warning for warning in plan.warnings)


def test_the_plan_says_what_an_arm_changes_and_warns_of_what_it_does_not_say(plan_of):
    plan = plan_of()
    assert [line.split(":")[0] for line in plan.differences("gelu")][:1] == ["model.mlp"]
    assert not any("more than it says" in warning for warning in plan.warnings)
    said = [{"name": "faster", "set": {"optim.beta1": 0.7}}, {"name": "as the preset"}]
    assert not any("more than it says" in warning for warning in plan_of(arm=said).warnings)
    wide = [{"name": "base"}, {"name": "wide", "set": {"model.ffn_dim": 512}}]
    plan = plan_of({"min_updates": 40}, arm=wide)
    assert any(line.startswith("train.global_batch_tokens") for line in plan.differences("wide"))
    assert any(
        "arm wide differs in more than it says: train.global_batch_tokens" in warning
        for warning in plan.warnings
    )


def test_finished_runs_are_not_pending(plan_of, tmp_path):
    plan, pool = plan_of(), tmp_path / "pool"
    assert {run.run_id for run in pending_runs(plan, pool)} == {run.run_id for run in plan.runs}
    states = ["finished", "failed", "stopped", "running", "finished"]
    for run, status in zip(plan.runs, states, strict=False):
        publish_json(pool / run.run_id / "summary.json", {"status": status})
    pending = [run.run_id for run in pending_runs(plan, pool)]
    done = {plan.runs[0].run_id, plan.runs[4].run_id}
    assert set(pending) == {run.run_id for run in plan.runs} - done
    shutil.rmtree(pool / plan.runs[0].run_id)
    assert len(pending_runs(plan, pool)) == len(pending) + 1


def test_the_longest_runs_start_first_and_none_twice(plan_of, tmp_path):
    plan = plan_of({"seeds": [1, 2]})
    twice = replace(plan, runs=plan.runs + plan.runs[:4])
    budgets = [run.rung.budget for run in pending_runs(twice, tmp_path)]
    assert budgets == sorted(budgets, reverse=True)
    assert len(budgets) == len(plan.runs)


GROUPED = {"model": {"dim": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 32, "multiple_of": 8}}


def test_an_arm_of_grouped_heads_keeps_its_group_on_every_rung(plan_of):
    """GQA: what the arm is called after must hold at every size."""
    arms = [{"name": "all"}, {"name": "grouped", "set": {"model.n_kv_heads": 2}}]
    for run in plan_of({"flops": [4.53e8, 1.63e9]}, GROUPED, arm=arms).runs:
        if run.arm == "grouped":
            model = run.config.model
            assert model.n_heads == 2 * model.kv_heads, model
