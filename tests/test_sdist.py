"""The source distribution holds all that its own tests need."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "docs", "studies", "benchmarks", ".ci")
BUILD = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
QUICK = ("tests/design/test_docs.py", "tests/test_units.py")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The distribution, built from this checkout and unpacked."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: make setup")
    folder = tmp_path_factory.mktemp("sdist")
    words = [sys.executable, "-c", BUILD, str(folder)]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    with tarfile.open(folder / made.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    (place,) = [path for path in folder.iterdir() if path.is_dir()]
    return place


def is_made_here(path: Path) -> bool:
    return path.suffix == ".pyc" or path.name.startswith(".DS_")


@pytest.mark.long
def test_every_file_that_a_test_can_read_is_in_it(unpacked):
    wanted = {
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not is_made_here(path)
    }
    for path in (ROOT / "tests").rglob("*.py"):
        named = re.findall(r'ROOT / "([\w./-]+)"', path.read_text(encoding="utf-8"))
        wanted |= {Path(name) for name in named if (ROOT / name).is_file()}
    assert len(wanted) > 400
    assert {Path("pyproject.toml"), Path("Makefile"), Path("bootstrap.py")} <= wanted
    assert sorted(path for path in wanted if not (unpacked / path).is_file()) == []


@pytest.mark.long
def test_nothing_that_was_made_here_is_in_it(unpacked):
    names = {path.name for path in unpacked.iterdir()}
    assert not names & {".git", ".venv", "site", "runs", "quickstart", ".mypy_cache", ".ruff_cache"}
    assert list(unpacked.rglob("*.pyc")) == []


@pytest.mark.long
def test_its_tests_run_where_it_was_unpacked(unpacked, child_environment):
    environment = {**child_environment, "PYTHONPATH": str(unpacked / "src")}
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    words = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *QUICK]
    done = subprocess.run(words, cwd=unpacked, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " failed" not in done.stdout
