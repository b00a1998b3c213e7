"""A run that begins at a checkpoint of a longer one ends with the bytes of one made alone."""

import json
import logging
import shutil

import pytest

from ladderlm.checkpoint.layout import list_checkpoints, step_folder
from ladderlm.errors import ConfigError
from ladderlm.run.execute import execute
from ladderlm.run.resolve import resolve
from reference.runs import BrokenError, break_at, lines_of, outcome
from reference.two_processes import run_on_two

QUICK = {"eval__n_samples": 0, "eval__n_documents": 3, "eval__n_evals": 1}
WSD = QUICK | {
    "optim__schedule": "wsd",
    "optim__warmup_steps": 2,
    "model__dropout": 0.1,
    "train__ema_decay": 0.9,
    "checkpoint__every_steps": 100,
}
STABLE = 7  # of 10 steps, three are cooled


@pytest.fixture
def make(tiny_config, tmp_path):
    """Carry out a run of some steps in a folder of that name."""

    def run(name, n_steps, observe=lambda _row: None, **changes):
        out = str(tmp_path / name)
        return execute(
            tiny_config(**WSD | changes, train__n_steps=n_steps, out=out), "auto", observe
        )

    return run


def steps_of(folder):
    return [checkpoint.step for checkpoint in list_checkpoints(folder / "checkpoints")]


def results_of(folder):
    """All that a short run has in common with one made alone."""
    found = outcome(folder)
    summary = found["summary"]
    train = [row for row in found["metrics"] if row["kind"] == "train"]
    scores = [summary["evals"]["val"][which] for which in ("last", "average")]
    kept = {name: found[name] for name in ("step", "model", "optimizer")}
    return kept | {"train": train, "scores": scores, "n_tokens": summary["n_tokens"]}


@pytest.fixture(scope="module")
def made():
    """The trunk, once it has been made: all tests read the same."""
    return []


@pytest.fixture
def trunk(make, made, tmp_path_factory):
    if not made:
        folder = make("trunk", 16, checkpoint__keep_steps=[4, STABLE])
        made.append(shutil.copytree(folder, tmp_path_factory.mktemp("made") / "trunk"))
    return made[0]


def test_a_kept_step_stays_and_changes_nothing(make, trunk):
    assert steps_of(trunk) == [4, STABLE, 16]
    plain = make("plain", 16)
    assert steps_of(plain) == [16]
    assert outcome(plain) == outcome(trunk)


@pytest.mark.parametrize("killed_at", [None, pytest.param(9, marks=pytest.mark.slow)])
def test_a_branch_ends_with_the_bytes_of_a_run_made_alone(killed_at, make, trunk):
    alone = results_of(make("alone", 10))
    begun = {"execution__start_from": str(trunk), "checkpoint__every_steps": 8}
    made = []
    if killed_at is not None:
        with pytest.raises(BrokenError):
            make("short", 10, break_at(killed_at), **begun)
    short = make("short", 10, lambda row: made.append(row["step"]), **begun)
    assert min(made) == (STABLE + 1 if killed_at is None else 9)
    assert results_of(short) == alone
    summary = json.loads((short / "summary.json").read_text())
    trunk_id = json.loads((trunk / "summary.json").read_text())["run_id"]
    assert summary["branched_from"] == {"trunk": trunk_id, "step": STABLE}
    assert summary["restarts"] == (killed_at is not None)


@pytest.mark.slow
def test_a_cooldown_of_another_length_branches_from_an_earlier_step(make, trunk):
    longer = {"optim__decay_fraction": 0.5, "optim__final_lr_fraction": 0.0}
    alone = results_of(make("alone", 10, **longer))
    short = make("short", 10, **longer, execution__start_from=str(trunk))
    assert results_of(short) == alone
    assert json.loads((short / "summary.json").read_text())["branched_from"]["step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["none", "weights"])
def test_on_two_processes_a_branch_is_the_run_made_alone_there(
    shard, make, python, child_environment, tiny_config, tmp_path
):
    """T04: also from a trunk of one process, whose order of adding gradients was another."""
    plain = {"model__dropout": 0.0}  # its masks are those of a number of processes

    def config(name, n_steps, **changes):
        changes |= {"train__n_steps": n_steps, "execution__shard": shard}
        return tiny_config(**WSD | plain | changes, out=str(tmp_path / name))

    kept = {"checkpoint__keep_steps": [STABLE]}
    one, two = make("one", 16, **plain, **kept), tmp_path / "two"
    from_two, from_one = ({"execution__start_from": str(folder)} for folder in (two, one))
    jobs = [
        config("two", 16, **kept),
        config("alone", 10),
        config("short", 10, **from_two),
        config("crossed", 10, **from_one),
    ]
    run_on_two(python, child_environment, [(job, None) for job in jobs])
    alone = results_of(tmp_path / "alone")
    assert results_of(tmp_path / "short") == alone
    make("back", 10, **plain, **from_two)
    for name in ("short", "crossed", "back"):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["branched_from"]["step"] == STABLE
        for ours, theirs in zip(results_of(tmp_path / name)["train"], alone["train"], strict=True):
            assert ours["step"] == theirs["step"]
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-5)


@pytest.mark.parametrize(
    "damage", ["damaged", *(pytest.param(x, marks=pytest.mark.slow) for x in ("absent", "no step"))]
)
def test_without_a_good_checkpoint_the_run_is_made_from_its_first_step(
    damage, make, trunk, tmp_path, caplog
):
    copy = tmp_path / "copy"
    if damage != "absent":
        shutil.copytree(trunk, copy)
        for step in (4, STABLE):
            folder = step_folder(copy / "checkpoints", step)
            if damage == "damaged":
                (folder / "model.safetensors").write_bytes(b"no")
            else:
                shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING):
        short = make("short", 10, execution__start_from=str(copy))
    said = [record.message for record in caplog.records if "from its first step" in record.message]
    assert len(said) == 1
    assert str(copy) in said[0]
    assert len([r for r in lines_of(short / "metrics.jsonl") if r["kind"] == "train"]) == 10
    assert "branched_from" not in json.loads((short / "summary.json").read_text())


MISFITS = [
    ({"train__seed": 2}, "train.seed: 1 -> 2"),
    ({"optim__learning_rate": 0.02}, "optim.learning_rate"),
    ({"optim__warmup_steps": 3}, "optim.warmup_steps: 2 -> 3"),
    ({"optim__warmup_steps": None}, "without optim.warmup_steps"),
    ({"optim__schedule": "cosine"}, "optim.schedule = 'cosine'"),
    ({"train__first_batch_tokens": 64}, "first_batch_tokens"),
]


def test_a_trunk_that_does_not_fit_is_refused_with_the_difference(make, trunk):
    for changes, word in MISFITS:
        with pytest.raises(ConfigError, match=word):
            make("short", 10, **changes, execution__start_from=str(trunk))


@pytest.mark.parametrize(
    ("schedule", "n_warmup", "fits"), [("wsd", 7, True), ("wsd", 8, False), ("cosine", 11, False)]
)
def test_a_warm_up_longer_than_the_run_is_refused(schedule, n_warmup, fits, tiny_config):
    changes = {"optim__schedule": schedule, "optim__warmup_steps": n_warmup}
    config = tiny_config(**WSD | changes, train__n_steps=10)
    if fits:
        assert resolve(config).optim == config.optim
    else:
        with pytest.raises(ConfigError, match=f"optim.warmup_steps = {n_warmup} of a run of 10"):
            resolve(config)
