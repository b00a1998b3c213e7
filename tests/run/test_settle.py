"""What a run settles about its machine: exact products or none, and the same ones after a stop."""

import json

import pytest
import torch

from ladderlm.errors import ConfigError
from ladderlm.files import read_json
from ladderlm.model import precision
from ladderlm.model.precision import FLOAT32_ERROR, float32_matmul, float32_matmul_error
from ladderlm.run import settle as settle_module
from ladderlm.run.execute import execute
from ladderlm.run.settle import probe_matmul
from ladderlm.training.config import ExecutionConfig
from reference.runs import BrokenError, break_at

BRIEF = {"eval__n_evals": 0, "eval__n_samples": 0}


def rounding(monkeypatch):
    """Let `medium` round to bfloat16, as it does on CPUs with AMX."""
    product = torch.Tensor.__matmul__

    def rounded(a, b):
        if torch.get_float32_matmul_precision() == "medium" and a.dtype == torch.float32:
            return product(a.bfloat16(), b.bfloat16()).float()
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)


def test_the_default_products_are_exact_to_the_bound():
    assert 1e-8 < float32_matmul_error("highest") < FLOAT32_ERROR


def test_a_machine_that_rounds_keeps_the_default(monkeypatch):
    """The probe sees bfloat16, at some 3e-3 of error, and `auto` stays away from it."""
    rounding(monkeypatch)
    assert float32_matmul_error("medium") > 1e-3
    measured = probe_matmul(ExecutionConfig(device="cpu"))
    assert measured["setting"] == "highest"
    assert measured["relative_error"] < FLOAT32_ERROR


def test_asking_for_products_that_are_not_exact_here_is_refused(monkeypatch):
    rounding(monkeypatch)
    with pytest.raises(ConfigError, match="float32_matmul = 'medium' is not float32"):
        probe_matmul(ExecutionConfig(device="cpu", float32_matmul="medium"))


def test_a_gpu_is_never_given_rounded_products():
    assert probe_matmul(ExecutionConfig(device="cuda"))["setting"] == "highest"
    with pytest.raises(ConfigError, match="TF32"):
        probe_matmul(ExecutionConfig(device="cuda", float32_matmul="medium"))


@pytest.mark.parametrize("error", [0.9 * FLOAT32_ERROR, 1.1 * FLOAT32_ERROR])
def test_the_bound_decides(error, monkeypatch):
    monkeypatch.setattr(settle_module, "float32_matmul_error", lambda setting: error)
    measured = probe_matmul(ExecutionConfig(device="cpu"))
    assert measured["setting"] == ("medium" if error < FLOAT32_ERROR else "highest")


def test_the_setting_is_put_back_whatever_happens():
    before = torch.get_float32_matmul_precision()
    other = "medium" if before == "highest" else "highest"
    found = []

    def fail():
        with float32_matmul(other):
            found.append(torch.get_float32_matmul_precision())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert found == [other]
    assert torch.get_float32_matmul_precision() == before


def test_a_run_records_the_setting_and_what_was_measured(tiny_config):
    folder = execute(tiny_config(**BRIEF, train__n_steps=1))
    measured = read_json(folder / "environment.json")["float32_matmul"]
    setting = read_json(folder / "config.json")["execution"]["float32_matmul"]
    assert setting == measured["setting"] in ("highest", "medium")
    assert measured["relative_error"] < FLOAT32_ERROR


def test_training_multiplies_by_the_setting_of_the_run(tiny_config):
    seen = set()
    config = tiny_config(**BRIEF, train__n_steps=1, execution__float32_matmul="highest")
    execute(config, observe=lambda row: seen.add(torch.get_float32_matmul_precision()))
    assert seen == {"highest"}


def test_a_resumed_run_keeps_the_setting_it_began_with(tiny_config, monkeypatch):
    """T15: whatever the machine would choose today."""
    config = tiny_config(**BRIEF, execution__float32_matmul="highest")
    with pytest.raises(BrokenError):
        execute(config, observe=break_at(8))
    seen = set()
    folder = execute(
        tiny_config(**BRIEF), observe=lambda row: seen.add(torch.get_float32_matmul_precision())
    )
    assert seen == {"highest"}
    assert read_json(folder / "config.json")["execution"]["float32_matmul"] == "highest"


def test_a_run_older_than_the_option_goes_on_as_it_began(tiny_config, tmp_path):
    with pytest.raises(BrokenError):
        execute(tiny_config(**BRIEF, execution__float32_matmul="highest"), observe=break_at(8))
    file = tmp_path / "run/config.json"
    values = json.loads(file.read_text())
    del values["execution"]["float32_matmul"]
    del values["model"]["attention"]
    file.write_text(json.dumps(values))
    execute(tiny_config(**BRIEF, model__attention="blocked"))
    assert read_json(file)["execution"]["float32_matmul"] == "highest"
    assert read_json(file)["model"]["attention"] == "sdpa"


def test_a_new_start_settles_anew(tiny_config, tmp_path, monkeypatch):
    execute(tiny_config(**BRIEF, train__n_steps=1, execution__float32_matmul="highest"))
    monkeypatch.setattr(settle_module, "float32_matmul_error", lambda setting: 0.0)
    execute(tiny_config(**BRIEF, train__n_steps=1), "never")
    assert read_json(tmp_path / "run/config.json")["execution"]["float32_matmul"] == "medium"


def test_the_probe_is_a_function_of_the_machine_alone():
    torch.manual_seed(1)
    first = float32_matmul_error("medium")
    state = torch.get_rng_state()
    assert float32_matmul_error("medium") == first
    assert torch.equal(torch.get_rng_state(), state)
    assert precision.FLOAT32_ERROR == 1e-6
