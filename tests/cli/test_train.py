"""`ladderlm train`: where options come from, what is refused, how it ends."""

import shutil
import subprocess
import time

import pytest

from ladderlm.config import to_dict
from ladderlm.run.directory import RunDirectory
from ladderlm.run.presets import PRESETS, preset

SECONDS = 60


@pytest.fixture
def train(ladderlm, config_file, tiny_data, tmp_path):
    """Train the tiny config on the tiny data, with options laid over."""

    def call(*words):
        base = ("--config", config_file, "--data", tiny_data, "--out", tmp_path / "new")
        return ladderlm("train", *base, *words)

    return call


def config_of(folder):
    return RunDirectory(folder).config()


def test_a_config_file_a_preset_and_options_lie_over_each_other(ladderlm, tiny_data, tmp_path):
    out = tmp_path / "new"
    small = ["--model.dim", "16", "--model.n-heads=2", "--train.n_steps=2", "--eval.n_evals", "1"]
    small += ["--train.global-batch-tokens", "128", "--eval.sample-prompts", "def ", "x"]
    small += ["--execution.n-threads", "1"]
    words = ["--preset", "llama", f"--data={tiny_data}", f"--out={out}", "--device=cpu"]
    said = ladderlm("train", *words, *small)
    assert said.code == 0, said.err
    config = config_of(out)
    assert (config.model.dim, config.model.n_heads, config.train.n_steps) == (16, 2, 2)
    assert config.eval.sample_prompts == ("def ", "x")
    assert config.optim.name == preset("llama").optim.name  # what was not overridden
    assert config.execution.device == "cpu"
    assert f"run {config.run_id}:" in said.err
    assert "2 steps of 128 tokens = 256 tokens" in said.err
    assert "bits/byte" in said.out
    assert f"{out}: 2 steps in" in said.out


def test_the_config_of_a_run_gives_the_same_run_elsewhere(ladderlm, shared_run, tmp_path):
    """A run's config.json is a config file; it names data by path and content."""
    said = ladderlm(
        "train", "--config", shared_run / "config.json", "--out", tmp_path / "again", "--json"
    )
    assert said.code == 0, said.err
    first, again = RunDirectory(shared_run), RunDirectory(tmp_path / "again")
    assert again.config().run_id == first.config().run_id
    old, new = first.summary()["evals"]["val"], again.summary()["evals"]["val"]
    assert new == old
    assert said.json == again.summary()


def test_a_finished_run_is_left_as_it_is(ladderlm, run):
    """C17: the same command again is a no-op with exit code 0."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = ladderlm("train", "--config", run / "config.json", "--out", run)
    assert said.code == 0
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {p.name for p in before if after[p] != before[p]} <= {".lock"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model.dimm", "3"], "--model.dim"),
        (["--train.n_step=3"], "--train.n-steps"),
        (["--dat", "x"], "--data"),
        (["--model.dim", "wide"], "--model.dim: invalid literal"),
        (["--model.dim"], "Missing value for argument '--model.dim'"),
        (["--data"], "Missing value for argument '--data/--data.path'"),
        (["--device", "tpu"], "('auto', 'cpu', 'cuda')"),
        (["--resume", "maybe"], "('auto', 'never', 'must')"),
        (["--model.mlp", "relu"], "'swiglu', 'gelu'"),
        (["--data.mask-documents", "maybe"], "--data.mask-documents"),
        (["stray"], "stray"),
    ],
)
def test_a_slip_in_an_option_names_the_option(words, says, train, tmp_path):
    """T19: nothing is ignored, the nearest names are shown."""
    said = train(*words)
    assert said.code == 2
    assert says in said.words
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model.dim=-4"], "model.dim must be at least 1 and below 2^31, got -4"),
        (["--model.dim", "33"], "choose an even dim"),
        (["--model.n-heads", "5"], "choose n_heads among"),
        (["--optim.learning-rate", "nan"], "optim.learning_rate must be positive, got nan"),
        (
            ["--optim.learning-rate", "1e400"],
            "optim.learning_rate must be a finite number, got inf",
        ),
        (["--optim.weight-decay=-inf"], "optim.weight_decay"),
        (["--model.norm-eps", "nan"], "model.norm_eps must be positive, got nan"),
        (["--train.n-steps", "0"], "train.n_steps must be at least 1 and below 2^40, got 0"),
        (["--train.global-batch-tokens", "100"], "set train.global_batch_tokens to 128"),
        (["--data.seq-len", "128"], "set model.max_seq_len to 128"),
        (["--resume", "must"], "holds no checkpoint"),
        (["--preset", "llama"], "--config cannot be combined with --preset"),
        (["--model.vocab-size", "300"], "leave model.vocab_size out"),
        (["--numerics-version", "99"], "in this ladderlm, got 99"),
        (["--data.split", "trian"], "no split 'trian'"),
        (["--eval.split", "vaal"], "no split 'vaal'"),
    ],
)
def test_a_value_that_cannot_be_honoured_is_refused_with_the_mend(words, says, train):
    """T19: NaN, infinity and negatives too."""
    said = train(*words)
    assert said.code == 2
    assert says in said.err
    assert said.err.rpartition("error: ")[2].count("\n") <= 3  # what, why, fix
    assert said.out == ""


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.toml", b"dim = = 3\n", "line 1"),
        ("a.json", b"{", "line 1"),
        ("a.json", b"[1]", "must hold a table of options, got a list"),
        ("a.toml", b"\xff\xfe", "cannot read"),
        ("a.toml", b"[model]\ndimm = 3\n", "model.dim?"),
        ("a.toml", b"[modle]\ndim = 3\n", "model?"),
        ("a.toml", b"[model]\ndim = 'x'\n", "model.dim must be of type int, got 'x'"),
        ("a.toml", b"[model]\ndim = nan\n", "model.dim must be of type int, got nan"),
        ("a.toml", b"model = 3\n", "model must be a table of options, got 3"),
        (
            "a.toml",
            b"[data]\nmask_documents = 1\n",
            "data.mask_documents must be of type bool, got 1",
        ),
    ],
)
def test_a_broken_config_file_is_named_with_the_place(name, content, says, ladderlm, tmp_path):
    (tmp_path / name).write_bytes(content)
    said = ladderlm("train", "--config", tmp_path / name)
    assert said.code == 2
    assert str(tmp_path / name) in said.err
    assert says in said.err


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_config_file_that_cannot_be_opened_is_named(kind, ladderlm, tmp_path):
    path = tmp_path if kind == "folder" else tmp_path / "nowhere.toml"
    said = ladderlm("train", "--config", path)
    assert said.code == 2
    assert f"cannot read config {path}" in said.err


def test_an_unknown_preset_is_refused_with_the_known_ones(ladderlm):
    said = ladderlm("train", "--preset", "lama")
    assert said.code == 2
    assert "did you mean llama?" in said.err
    assert all(name in said.err for name in PRESETS)


def test_without_data_it_says_how_to_name_some(ladderlm, tmp_path):
    said = ladderlm("train")
    assert said.code == 2
    assert "add --data DIR" in said.err
    said = ladderlm("train", "--data", tmp_path)
    assert said.code == 2
    assert "ladderlm prepare SOURCE" in said.err


def test_damaged_data_is_refused_before_the_first_step(train, data, damage, tmp_path):
    """T17 and its kin: the file is named."""
    damage(data / "train-00000.bin")
    said = train("--data", data)
    assert said.code == 2
    assert "train-00000.bin is damaged" in said.err
    assert not (tmp_path / "new/checkpoints").exists()


def test_another_run_in_the_folder_is_refused_with_the_difference(ladderlm, run):
    said = ladderlm("train", "--config", run / "config.json", "--out", run, "--model.dim", "64")
    assert said.code == 2
    assert "model.dim: 32 -> 64" in said.err
    assert "--resume never" in said.err


def test_resume_never_begins_anew_and_auto_goes_on(ladderlm, run):
    shutil.rmtree(run / "checkpoints/step-00000008")
    (run / "summary.json").unlink()
    config = run / "config.json"
    said = ladderlm("train", "--config", config, "--out", run, "--resume", "must")
    assert said.code == 0, said.err
    assert RunDirectory(run).summary()["restarts"] >= 1
    assert ladderlm("train", "--config", config, "--out", run, "--resume=never").code == 0
    assert RunDirectory(run).summary()["restarts"] == 0


def test_a_folder_that_is_a_file_is_named(train, tmp_path):
    """C22."""
    (tmp_path / "new").write_text("")
    said = train()
    assert said.code in (1, 2)
    assert str(tmp_path / "new") in said.err


def test_a_stopped_training_says_so_and_the_same_command_goes_on(
    python, child_environment, config_file, tiny_data, ladderlm, tmp_path
):
    """C05: exit code 143 of the command; 130 is that of Ctrl-C."""
    out = tmp_path / "long"
    words = ["train", "--config", str(config_file), "--data", str(tiny_data), "--out", str(out)]
    words += ["--train.n-steps", "3000", "--eval.n-evals", "1", "--train.log-every-steps", "1"]
    line = [python, "-m", "ladderlm.cli.main", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=child_environment, stdout=pipe, stderr=pipe) as child:
        log, end = out / "metrics.jsonl", time.monotonic() + SECONDS
        while not (log.exists() and log.read_bytes().count(b"\n") > 4) and child.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.005)
        child.terminate()
        _, err = child.communicate(timeout=SECONDS)
    assert child.returncode == 143, err.decode()
    assert b"The same command resumes it" in err
    assert b"Traceback" not in err
    assert RunDirectory(out).summary()["status"] == "stopped"
    said = ladderlm(*words, "--resume=must", "--train.n-steps", "4000")
    assert said.code == 2  # another length is another run
    assert "train.n_steps: 3000 -> 4000" in said.err
    (newest,) = (out / "checkpoints").iterdir()
    assert 3 < int(newest.name.removeprefix("step-")) < 3000


def test_presets_are_whole_configs():
    for name in PRESETS:
        assert to_dict(preset(name))["model"]["dim"] == PRESETS[name]["model"]["dim"]
