"""Commands called in this process, on one small run that all tests of this folder share."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builders import make_records, write_jsonl
from ladderlm.cli.main import main
from ladderlm.config import from_dict
from ladderlm.run.execute import execute
from ladderlm.training.run_config import RunConfig


@dataclass(frozen=True)
class Said:
    """What a command said.

    Args:
        code: exit code.
        out, err: standard output and standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as strict JSON."""
        return json.loads(self.out, parse_constant=_refuse)

    @property
    def words(self) -> str:
        """Standard error without frames and line breaks, for what the parser of options says."""
        words = self.err.translate(dict.fromkeys(map(ord, "│╭╮╰╯─|"), " ")).split()
        return " ".join(word for word in words if word.strip("-"))


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


@pytest.fixture
def ladderlm(capsys, monkeypatch) -> Callable[..., Said]:
    """Call a command line; whatever it does, it must not raise."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: object) -> Said:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # how the parser of options leaves
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Said(code, out, err)

    return call


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A folder with train.jsonl and val.jsonl."""
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "train.jsonl", make_records(60, seed=1))
    write_jsonl(folder / "val.jsonl", make_records(12, seed=2))
    return folder


TINY_RUN = {
    "model": {"dim": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64},
    "data": {"seq_len": 32},
    "train": {"n_steps": 8, "global_batch_tokens": 256, "log_every_steps": 2},
    "eval": {"n_evals": 2, "head_tokens": 400, "sample_tokens": 8, "n_samples": 1},
    "checkpoint": {"every_steps": 4, "keep": 2},
    "execution": {"device": "cpu", "n_threads": 1},
}


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> Path:
    """The config of the shared run as TOML."""
    lines = []
    for table, options in TINY_RUN.items():
        lines.append(f"[{table}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    file = tmp_path_factory.mktemp("config") / "tiny.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="session")
def shared_run(tiny_data, tmp_path_factory) -> Path:
    """A finished run with checkpoints of steps 4 and 8; do not write into it."""
    out = tmp_path_factory.mktemp("shared") / "run"
    data = TINY_RUN["data"] | {"path": str(tiny_data)}
    return execute(from_dict(RunConfig, TINY_RUN | {"data": data, "out": str(out)}))


@pytest.fixture
def run(shared_run, tmp_path) -> Path:
    """A copy of the shared run, to be written into and damaged."""
    return Path(shutil.copytree(shared_run, tmp_path / "run"))


@pytest.fixture
def data(tiny_data, tmp_path) -> Path:
    """A copy of the prepared data, to be damaged."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


@pytest.fixture
def damage() -> Callable[[Path], Path]:
    """Flip a bit in the middle of a file."""

    def flip(path: Path) -> Path:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        return path

    return flip


@pytest.fixture
def on_terminal(monkeypatch) -> Callable[[], None]:
    """Make standard output say that it is a terminal."""
    return lambda: monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
