"""Builders and guards that all tests share.

A test takes `tiny_data` (prepared shards of a made-up corpus) and `tiny_config` (a run of a few
steps on it); both are a fraction of a second to make.
"""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from builders import make_records, write_jsonl
from ladderlm.config import from_dict
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.train import save_tokenizer, train_bpe
from ladderlm.training.run_config import RunConfig

for name in ("CI", "BUILD_NUMBER"):
    # With either, pytest prints every difference in full: minutes for two training histories that
    # a seeded bug is meant to tell apart.
    os.environ.pop(name, None)
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # children of tests share two cores with the suite
settings.register_profile(
    "suite",
    deadline=None,  # a busy machine is not a bug
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip for a part that LADDERLM_REQUIRE names into a failure."""
    report = yield
    required = [part for part in os.environ.get("LADDERLM_REQUIRE", "").split(",") if part]
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        named = [part for part in required if f"[{part}]" in reason]
        if named:
            report.outcome = "failed"
            report.longrepr = f"{reason}: LADDERLM_REQUIRE names {named[0]}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the test that takes a minute, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Take back the threads that a run in this process has set: two cores serve two of them."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Refuse connections to any other host than this one."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def guarded(own: socket.socket, address: Any) -> Any:
        host = address[0] if isinstance(address, tuple) else "local"
        if own.family in (socket.AF_INET, socket.AF_INET6) and host not in (
            "127.0.0.1",
            "localhost",
            "::1",
        ):
            raise AssertionError(f"a test tried to reach {host}")
        return connect(own, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what runs measure of this machine away from the user's home."""
    os.environ["LADDERLM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> BytePairTokenizer:
    """A vocabulary of 320 tokens."""
    return train_bpe((r["text"] for r in make_records(100, seed=5)), 320)


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(
    tiny_tokenizer: BytePairTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tokenizer on disk."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, tiny_tokenizer, {})
    return folder


@pytest.fixture(scope="session")
def tiny_data(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data: 60 training and 12 validation documents."""
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "corpus/train.jsonl", make_records(60, seed=1))
    write_jsonl(folder / "corpus/val.jsonl", make_records(12, seed=2))
    out = folder / "prepared"
    tokenizer = str(tiny_tokenizer_folder)
    prepare(PrepareConfig(sources=(str(folder / "corpus"),), tokenizer=tokenizer, out=str(out)))
    return out


@pytest.fixture
def tiny_config(tiny_data: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Give a builder of configs: 12 steps of a model of two layers, overridden by dotted names."""

    def build(**overrides: Any) -> RunConfig:
        values: dict[str, Any] = {
            "model": {"dim": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 32},
            "data": {"path": str(tiny_data), "seq_len": 32},
            "train": {"n_steps": 12, "global_batch_tokens": 256, "log_every_steps": 1},
            "eval": {"n_evals": 4, "head_tokens": 400, "sample_tokens": 8, "n_samples": 1},
            "checkpoint": {"every_steps": 5},
            "execution": {"device": "cpu", "n_threads": 1},
            "out": str(tmp_path / "run"),
        }
        for dotted, value in overrides.items():
            *places, last = dotted.split("__")
            table = values
            for place in places:
                table = table.setdefault(place, {})
            table[last] = value
        return from_dict(RunConfig, values)

    return build


@pytest.fixture
def child_environment() -> dict[str, str]:
    """Environment of child processes: one thread, no colours, this checkout's package."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "100"}


@pytest.fixture
def python() -> str:
    """The interpreter of this environment."""
    return sys.executable
