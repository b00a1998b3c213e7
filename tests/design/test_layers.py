"""Who may import whom, by the import statements and by what really gets loaded."""

import functools
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from design.sources import (
    PACKAGE,
    TREES,
    Import,
    find_circles,
    imports_of,
    load_page,
    package_of,
    public_names,
)
from ladderlm.cli.main import COMMANDS

HOUSE = load_page("house")
FLOORS = {room.name: room.floor for room in HOUSE.ROOMS}
CALLERS = {room.name: room.callers for room in HOUSE.ROOMS if room.callers}
# Packages of the extras: the rest of the package must run without them.
OPTIONAL = "fastokens gguf lm_eval pyarrow ray submitit transformers".split()
MODULES = [path.removesuffix(".py").replace("/", ".") for path in TREES]
TORCH_FREE = {
    "configs": [m for m in MODULES if m.endswith("config")],
    "data": [m for m in MODULES if m.startswith(("corpus.", "data.", "prepare."))],
    "tokenizer": [m for m in MODULES if m.startswith("tokenizer.")],
    "accounting": ["model.accounting", "run.directory", "run.resolve", "dist"],
    "scaling": [m for m in MODULES if m.startswith("scaling.")],
    "study": [m for m in MODULES if m.startswith(("study.", "executors."))],
    "report": [m for m in MODULES if m.startswith("report.")],
    "cli": [m for m in MODULES if m.startswith("cli.")],
}


@functools.cache
def all_imports() -> list[tuple[str, Import]]:
    return [(path, found) for path, tree in TREES.items() for found in imports_of(tree)]


def test_every_room_stands_in_the_table_and_every_row_of_the_table_is_a_room() -> None:
    assert {package_of(path) for path in TREES} == set(FLOORS), "change ROOMS in docs/house.py"
    assert list(FLOORS.values()) == sorted(FLOORS.values(), reverse=True)


def test_the_map_is_drawn_from_the_table() -> None:
    for path, text in ((HOUSE.PAGE, HOUSE.page()), (HOUSE.README, HOUSE.readme())):
        assert path.read_text(encoding="utf-8") == text, "run python docs/house.py"


def test_every_file_on_the_way_of_a_document_exists() -> None:
    listed = [path for stage in HOUSE.WAY for path in stage.files]
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(TREES), "change WAY in docs/house.py"


@pytest.mark.parametrize(
    ("question", "file", "word"),
    [
        ("a document is cut into rows", "data/packing.py", "plan_epoch"),
        ("padding is kept out of the loss", "data/stream.py", "loss_mask"),
        ("rule 4 of the verdict", "study/verdict.py", "SCALE_DEPENDENT"),
        ("an MLP is added", "model/mlp.py", "build_mlp"),
        ("the HTML page is assembled", "report/render.py", "render_html"),
    ],
)
def test_the_map_names_the_file_in_which(question: str, file: str, word: str) -> None:
    assert word in (PACKAGE / file).read_text(encoding="utf-8"), question
    for page in (HOUSE.PAGE, HOUSE.README):
        assert file in page.read_text(encoding="utf-8"), question


def test_files_of_a_room_do_not_import_each_other_in_a_circle() -> None:
    found = [circle for circle in find_circles() if len({package_of(path) for path in circle}) == 1]
    assert not found, "\n".join(" ".join(sorted(circle)) for circle in found)


def test_a_module_imports_lower_floors_only() -> None:
    wrong = []
    for path, found in all_imports():
        if not found.module.startswith(("ladderlm", ".")):
            continue
        own, other = package_of(path), package_of(found.module)
        allowed = other == own or FLOORS[other] < FLOORS[own]
        if other in CALLERS:
            allowed = own in (other, *CALLERS[other])
        if not allowed or found.module == "ladderlm" or found.module.startswith("."):
            wrong.append(f"{path}:{found.line} imports {found.module}")
    assert not wrong, "\n".join(wrong)


def test_optional_packages_are_imported_where_they_are_used() -> None:
    wrong = [
        f"{path}:{found.line} imports {found.module} when it is loaded"
        for path, found in all_imports()
        if found.module.split(".")[0] in OPTIONAL and not found.deferred
    ]
    assert not wrong, "\n".join(wrong)


def test_matplotlib_lives_in_the_figures_of_the_report() -> None:
    users = {
        path for path, found in all_imports() if found.module.startswith(("matplotlib", "mpl_"))
    }
    assert users
    assert {path for path in users if not path.startswith("report/figures/")} == set()


def test_names_taken_from_another_module_are_public_there() -> None:
    wrong = []
    for path, found in all_imports():
        target = found.module.removeprefix("ladderlm.").replace(".", "/") + ".py"
        if found.module.startswith("ladderlm.") and target in TREES:
            hidden = set(found.names) - set(public_names(TREES[target]))
            wrong += [f"{path}:{found.line}: {name} of {target}" for name in hidden]
    assert not wrong, "\n".join(wrong)


def run_child(code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process."""
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout)


def test_torch_free_rooms_load_no_torch() -> None:
    assert all(TORCH_FREE.values())
    modules = [module for room in TORCH_FREE.values() for module in room]
    names = [f"ladderlm.{module}".removesuffix(".__init__") for module in modules]
    found = run_child(
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name + ' loads torch'\n"
    )
    assert found.returncode == 0, found.stderr


def test_importing_the_package_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, ladderlm; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)"
    assert run_child(code).returncode == 0


def test_the_help_of_every_command_loads_no_torch() -> None:
    found = run_child(
        "import contextlib, io, sys\n"
        "from ladderlm.cli.main import main\n"
        f"for command in {list(COMMANDS)!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as shown:\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            main([command, '--help'])\n"
        "    assert command in shown.getvalue(), f'{command}: no help'\n"
        "    assert 'torch' not in sys.modules, f'{command} --help loads torch'\n"
    )
    assert found.returncode == 0, found.stderr


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    script = Path(sys.executable).parent / "ladderlm"
    words = [str(script)] if script.exists() else [sys.executable, "-m", "ladderlm.cli.main"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*words, "--help"], check=True, stdout=subprocess.DEVNULL, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


def test_subpackages_do_nothing_when_they_are_imported() -> None:
    for path in TREES:
        if path.endswith("/__init__.py"):
            assert (PACKAGE / path).read_text(encoding="utf-8").strip() == "", path
