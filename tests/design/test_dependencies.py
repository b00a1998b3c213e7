"""What `pyproject.toml` declares and what the code imports are the same packages."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from design.sources import TREES, imports_of
from ladderlm.cli.doctor import PARTS
from ladderlm.run.environment import BARE_PACKAGES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Where the name that is imported is not the name that is installed, but for its hyphens.
IMPORT_NAMES = {"backports.zstd": "backports", "markdown-it-py": "markdown_it"}
# Development tools that are run, or that only mypy reads.
TOOLS = {"hatchling", "mypy", "pytest_timeout", "ruff", "scipy_stubs", "types_psutil", "xdist"}
# A missing package may be passed over in silence here alone.
QUIET = {
    "convert/certificate.py": "transformers",  # a further witness, named where it was heard
    "tokenizer/bpe.py": "tiktoken",  # the bare runner encodes by hand, to the same ids
    "tokenizer/fast.py": "fastokens",  # logged: encoding with tiktoken, fastokens is not installed
}


def names_of(requirements: Iterable[str]) -> set[str]:
    """Return the names under which required packages are imported."""
    names = [re.match(r"[\w.-]+", requirement)[0] for requirement in requirements]  # type: ignore[index]
    names = [name.removeprefix("pytest-") if name == "pytest-xdist" else name for name in names]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def third_party(trees: Iterable[ast.AST], own: Iterable[str]) -> set[str]:
    """Return the top-level names of the packages that are imported."""
    found = {found.module.split(".")[0] for tree in trees for found in imports_of(tree)}
    return found - {*sys.stdlib_module_names, *own, "compression", "ladderlm", ""}


CORE = names_of(PROJECT["dependencies"])
OPTIONAL = {extra: names_of(EXTRAS[extra]) for extra in EXTRAS if extra != "dev"}
IMPORTED = third_party(TREES.values(), own=())


def test_every_package_that_the_source_imports_is_declared() -> None:
    assert IMPORTED - CORE.union(*OPTIONAL.values()) == set()


@pytest.mark.parametrize("part", ["core", *OPTIONAL])
def test_every_declared_package_is_imported(part: str) -> None:
    assert {"core": CORE, **OPTIONAL}[part] - IMPORTED == set()


def test_no_package_is_declared_twice() -> None:
    parts = [CORE, *OPTIONAL.values(), names_of(EXTRAS["dev"])]
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_the_extra_for_development_is_what_tests_and_documents_import_and_the_tools() -> None:
    paths = [path for folder in ("tests", "docs") for path in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    own = {path.stem for path in (ROOT / "tests").iterdir()}
    imported = third_party(trees, own | {"model"})  # the code that a test writes for a child
    assert imported - CORE.union(*OPTIONAL.values()) == names_of(EXTRAS["dev"]) - TOOLS


def test_a_missing_package_is_an_error_that_names_it_or_its_extra() -> None:
    """But for `QUIET`, of which each entry is still needed."""
    quiet = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Try):
                continue
            for handler in node.handlers:
                if handler.type is None or "Import" not in ast.unparse(handler.type):
                    continue
                text = ast.unparse(handler)
                names = third_party([ast.Module(node.body, [])], own=())
                extras = [extra for extra, packages in OPTIONAL.items() if names & packages]
                promised = [f"ladderlm[{extra}]" for extra in extras]
                promised += [f"pip install {name}" for name in names & CORE]
                if not isinstance(handler.body[-1], ast.Raise):
                    quiet[path] = QUIET.get(path, "")
                elif not any(words in text for words in promised):
                    quiet[path] = "raises without the name"
    assert quiet == QUIET


def test_the_bare_runner_needs_some_of_the_core() -> None:
    assert set(BARE_PACKAGES) < CORE


def test_doctor_looks_for_the_extras_that_exist() -> None:
    assert {extra: set(names) for extra, names in PARTS.items()} == OPTIONAL


def test_ci_installs_every_extra() -> None:
    named = re.search(r'^PARTS="(.*)"$', (ROOT / ".ci/run").read_text(encoding="utf-8"), re.M)
    assert named is not None
    assert set(named[1].split(",")) == set(OPTIONAL)
