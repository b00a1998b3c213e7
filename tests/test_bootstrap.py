"""The bootstrap, run for real against an index on the loopback interface with made-up wheels."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CLOSED = "http://127.0.0.1:9/cpu/"  # the discard port, where nothing listens

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "ladderlm"
version = "0.0.1"
dependencies = ["torch>=2.10"]
[project.optional-dependencies]
dev = []
pdf = ["tinypdf"]
"""
BACKEND = '''
"""The smallest build backend: an editable wheel is a .pth file."""
import pathlib, zipfile

def get_requires_for_build_editable(config_settings=None):
    return []

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "ladderlm-0.0.1-py3-none-any.whl"
    info = "ladderlm-0.0.1.dist-info/"
    metadata = """Metadata-Version: 2.1
Name: ladderlm
Version: 0.0.1
Requires-Dist: torch>=2.10
Provides-Extra: dev
Provides-Extra: pdf
Requires-Dist: tinypdf; extra == "pdf"
"""
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        wheel.writestr("ladderlm.pth", str(pathlib.Path.cwd()))
        wheel.writestr(info + "METADATA", metadata)
        tags = "Root-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\n" + tags)
        wheel.writestr(info + "RECORD", "")
    return name
'''


def write_wheel(index: Path, name: str, version: str, requires: str = "") -> None:
    """Put a wheel of nothing, and the page that lists it, into a folder served as an index."""
    folder = index / name.replace("_", "-")
    folder.mkdir(parents=True)
    file_name = f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(folder / file_name, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    link = file_name.replace("+", "%2B")
    (folder / "index.html").write_text(f'<a href="{link}">{file_name}</a>')


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve a folder and log nothing."""

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve three indexes: `plain` has a CUDA build, `light` a plain one, `cpu` CPU builds."""
    folder = tmp_path_factory.mktemp("indexes")
    write_wheel(folder / "plain", "torch", "2.13.0", "nvidia-cublas-cu13")
    write_wheel(folder / "plain", "nvidia_cublas_cu13", "13.1.0")
    write_wheel(folder / "plain", "tinypdf", "0.1.0")
    write_wheel(folder / "light", "torch", "2.13.0")
    write_wheel(folder / "cpu", "torch", "2.13.0+cpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with pip alone, to be copied: making one takes seconds."""
    folder = tmp_path_factory.mktemp("venv") / ".venv"
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def project(tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project with our bootstrap, in a folder with a space, on a machine without driver."""
    root = tmp_path / "my project"
    (root / "ladderlm").mkdir(parents=True)
    (root / "ladderlm/__init__.py").touch()
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    (root / "constraints.txt").write_text("# pins\ntorch==2.13.0\ntinypdf==0.1.0\n")
    shutil.copy(ROOT / "bootstrap.py", root)
    for name in [name for name in os.environ if name.startswith(("PIP_", "PYTHON"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/plain/")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("LADDERLM_TORCH_INDEX", f"{index}/cpu/")
    return root


def fake_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int) -> None:
    """Put an `nvidia-smi` first on the PATH."""
    tool = folder / "tools/nvidia-smi"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def bootstrap(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ModuleType]:
    """Load the project's bootstrap as a module."""
    fake_driver(tmp_path, monkeypatch, exit_code=9)
    specification = importlib.util.spec_from_file_location("bootstrap", project / "bootstrap.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "DRIVER_FILE", tmp_path / "version")
    return module


def lay_out(empty_venv: Path, project: Path) -> None:
    """Return the project an environment as an interrupted setup would have left it."""
    shutil.copytree(empty_venv, project / ".venv", symlinks=True)
    state = {"ours": True, "with_base_packages": False}
    (project / ".venv/ladderlm.json").write_text(json.dumps(state))


def installed(project: Path, name: str = "torch") -> str | None:
    """Return the version that the project's environment has of a package."""
    code = f"from importlib.metadata import version; print(version({name!r}))"
    words = [project / ".venv/bin/python", "-c", code]
    found = subprocess.run(words, capture_output=True, text=True)
    return found.stdout.strip() or None


@pytest.mark.long
def test_without_a_driver_the_cpu_index_replaces_a_cuda_build(
    bootstrap: Any, project: Path, empty_venv: Path, index: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(empty_venv, project)
    assert bootstrap.main(["setup"]) == 0
    said = capsys.readouterr().out
    assert installed(project) == "2.13.0+cpu"
    assert installed(project, "nvidia-cublas-cu13") is None
    assert "torch==2.13.0+cpu\n" in (project / ".venv/constraints.txt").read_text()
    assert f"no NVIDIA driver: PyTorch 2.13.0+cpu, a CPU build, from {index}/cpu/" in said
    assert re.search(r"install: 1; to download: 1, at most 0 MB; up to 0\.0 GB", said)
    assert said.index("to download") < said.index("installing")


@pytest.mark.long
def test_with_a_driver_the_plain_index_is_used(
    bootstrap: Any,
    project: Path,
    empty_venv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(empty_venv, project)
    fake_driver(tmp_path, monkeypatch, exit_code=0)
    assert bootstrap.main(["setup", "--extras", "pdf"]) == 0
    assert installed(project) == "2.13.0"
    assert installed(project, "nvidia-cublas-cu13") == "13.1.0"
    assert installed(project, "tinypdf") == "0.1.0"
    assert "install: 3; to download: 3" in capsys.readouterr().out


@pytest.mark.long
def test_a_build_without_cuda_is_left_alone(
    bootstrap: Any,
    project: Path,
    empty_venv: Path,
    index: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(empty_venv, project)
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/light/")
    monkeypatch.setenv("LADDERLM_TORCH_INDEX", CLOSED)  # would be noticed
    assert bootstrap.main(["setup"]) == 0
    said = capsys.readouterr().out
    assert installed(project) == "2.13.0"
    assert "pip's usual index gives a PyTorch 2.13.0 without CUDA" in said
    assert "cannot be reached" not in said


@pytest.mark.long
def test_an_unreachable_cpu_index_falls_back_to_the_plain_one_and_says_so(
    bootstrap: Any,
    project: Path,
    empty_venv: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(empty_venv, project)
    monkeypatch.setenv("LADDERLM_TORCH_INDEX", CLOSED)
    assert bootstrap.main(["setup"]) == 0
    assert installed(project) == "2.13.0"
    assert installed(project, "nvidia-cublas-cu13") == "13.1.0"
    said = capsys.readouterr().out
    assert f"{CLOSED} cannot be reached" in said
    assert "with its CUDA libraries" in said


@pytest.mark.long
def test_setup_makes_the_environment_once_and_repairs_what_breaks(
    bootstrap: Any, project: Path, empty_venv: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    lay_out(empty_venv, project)
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/light/")
    assert bootstrap.main(["setup"]) == 0
    state = (project / ".venv/ladderlm.json").read_bytes()

    calls: list[tuple[str, ...]] = []
    pip = bootstrap.Environment.pip

    def counted(self: Any, *words: str, quiet: bool = False) -> None:
        calls.append(words)
        pip(self, *words, quiet=quiet)

    monkeypatch.setattr(bootstrap.Environment, "pip", counted)
    assert bootstrap.main(["setup"]) == 0
    assert calls == []
    assert (project / ".venv/ladderlm.json").read_bytes() == state

    # a package that vanished, as after an install that was killed
    next((project / ".venv").rglob("ladderlm.pth")).unlink()
    assert bootstrap.main(["setup"]) == 0
    assert len(calls) > 0
    assert installed(project, "ladderlm") == "0.0.1"

    # an interpreter that was taken away, as after an upgrade of the system, and a setup of a new
    # environment that was killed before it had pip
    (project / ".venv/bin/python").unlink()
    (project / ".venv/bin/python").symlink_to(project / "gone")
    create = bootstrap.subprocess.run

    def killed(words: list[Any], **options: Any) -> Any:
        if "venv" in words:
            create([*words, "--without-pip"], **options)
            raise KeyboardInterrupt
        return create(words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap.subprocess, "run", killed)
        assert bootstrap.main(["setup"]) == 130
    assert bootstrap.main(["setup"]) == 0
    assert (project / ".venv/bin/pip").exists()
    assert installed(project) == "2.13.0"

    # a change of what decides the installation
    environment = bootstrap.Environment(project, sys.executable)
    seen = {environment.fingerprint()}
    for name in ("pyproject.toml", "constraints.txt", "bootstrap.py"):
        with (project / name).open("a") as stream:
            stream.write("# more\n")
        seen.add(environment.fingerprint())
    assert len(seen) == 4


@pytest.mark.long
def test_a_torch_of_the_base_interpreter_is_used_as_it_is(
    bootstrap: Any,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = getattr(sys, "_base_executable", sys.executable)
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "user"))
    where = subprocess.run(
        [base, "-m", "site", "--user-site"], capture_output=True, text=True, check=True
    ).stdout.strip()
    info = Path(where) / "torch-2.11.0+cu129.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0+cu129\n")
    (info / "RECORD").touch()
    assert bootstrap.main(["setup"]) == 0
    assert "the PyTorch 2.11.0+cu129 of the base Python is used" in capsys.readouterr().out
    assert "torch==2.11.0+cu129\n" in (project / ".venv/constraints.txt").read_text()
    assert installed(project) == "2.11.0+cu129"
    assert not list((project / ".venv").rglob("torch-*.dist-info"))


@pytest.mark.parametrize("base_torch", ["2.9.1", "1.13.0+cu117"])
def test_numbers_of_versions_are_compared_as_numbers(bootstrap: Any, base_torch: str) -> None:
    assert bootstrap.numbers_of(base_torch) < bootstrap.numbers_of("2.10")


def test_the_driver_is_found_by_its_file_or_by_its_tool(
    bootstrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not bootstrap.find_driver()
    (tmp_path / "version").touch()
    assert bootstrap.find_driver()
    (tmp_path / "version").unlink()
    fake_driver(tmp_path, monkeypatch, exit_code=0)
    assert bootstrap.find_driver()


@pytest.mark.long
def test_a_failing_pip_ends_with_its_last_lines_and_what_to_do(
    bootstrap: Any, project: Path, empty_venv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(empty_venv, project)
    (project / "constraints.txt").write_text("torch==9.9.9\n")
    assert bootstrap.main(["setup"]) == 1
    error = capsys.readouterr().err
    assert "| ERROR: No matching distribution found" in error or "ResolutionImpossible" in error
    assert "  fix: " in error
    assert "fingerprint" not in json.loads((project / ".venv/ladderlm.json").read_text())


def test_a_full_disk_is_refused_before_anything_is_downloaded(
    bootstrap: Any, tmp_path: Path
) -> None:
    wheel_file = tmp_path / "torch.whl"
    wheel_file.write_bytes(bytes(1000))
    wheels = [bootstrap.Wheel("torch", "2.13.0", wheel_file.as_uri())]
    choice = bootstrap.TorchChoice("torch==2.13.0", None, wheels, "why")
    bootstrap.announce(choice, 10_000)
    with pytest.raises(bootstrap.SetupError, match="free some disk space"):
        bootstrap.announce(choice, 4_000)


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("Failed to establish a new connection: Connection refused", "check the network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build for this Python"),
        ("error: something else", "see pip's lines above"),
    ],
)
def test_advice_fits_the_failure(bootstrap: Any, output: str, advice: str) -> None:
    assert advice in bootstrap.advise(output)


def test_what_is_run_keeps_its_compiled_modules(
    bootstrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    words = ["python", "-c", "import sys; print(sys.dont_write_bytecode)"]
    monkeypatch.setitem(bootstrap.COMMANDS, "lint", [words])
    assert bootstrap.Environment(tmp_path, sys.executable).run("lint", []) == 0
    assert capfd.readouterr().out == "False\n"


def test_an_old_python_is_told_what_to_do(bootstrap: Any) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"Python 3\.9 is too old(.|\n)*PYTHON="):
        bootstrap.check_python((3, 9, 1))
    source = (ROOT / "bootstrap.py").read_text()
    ast.parse(source, feature_version=(3, 8))  # so that an old one gets as far as the message


def test_an_environment_of_somebody_else_is_never_deleted(
    bootstrap: Any, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / ".venv").mkdir()
    (project / ".venv/precious").touch()
    assert bootstrap.main(["setup"]) == 1
    assert "was not made by bootstrap.py" in capsys.readouterr().err
    assert bootstrap.main(["clean"]) == 0
    assert (project / ".venv/precious").exists()


@pytest.mark.long
def test_clean_removes_what_was_made_and_nothing_else(
    bootstrap: Any, project: Path, empty_venv: Path
) -> None:
    lay_out(empty_venv, project)
    for name in ("src/a/__pycache__", ".mypy_cache", "site", "runs/one", "quickstart"):
        (project / name).mkdir(parents=True)
    assert bootstrap.main(["clean"]) == 0
    left = {path.name for path in project.iterdir()}
    assert left >= {"src", "runs", "quickstart", "ladderlm", "pyproject.toml"}
    assert not left & {".venv", ".mypy_cache", "site"}
    assert not (project / "src/a/__pycache__").exists()


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["setup", "extra"], ["setup", "--extras", "x"]]
)
def test_wrong_words_are_answered_without_a_traceback(
    bootstrap: Any, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.main(words) in (1, 2)
    captured = capsys.readouterr()
    assert "python bootstrap.py setup" in captured.out or "fix: " in captured.err


def test_constraints_pin_every_core_and_dev_package_by_name_alone() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)==(\d[\w.]*)", line)
            assert match, f"not NAME==VERSION: {line}"
            pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        name = re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]
        assert name in pins, f"{name} has no pin"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    "verb", ["setup", "quickstart", "test", "lint", "bench", "docs", "simulate", "clean"]
)
def test_make_does_what_the_bootstrap_does(verb: str) -> None:
    words = ["make", "-n", verb, "ARGS=--one two", "PYTHON=python3"]
    alone = {name: v for name, v in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    shown = subprocess.run(
        words, cwd=ROOT, env=alone, capture_output=True, text=True, check=True
    ).stdout
    arguments = "" if verb in ("setup", "clean") else " --one two"
    assert shown.strip() == f"python3 bootstrap.py {verb}{arguments}"
