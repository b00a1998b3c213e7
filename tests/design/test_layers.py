"""Who may import whom, by the import statements and by what really gets loaded."""

import functools
import os
import resource
import subprocess
import sys
from pathlib import Path

from design.sources import PACKAGE, TREES, Import, imports_of, package_of, public_names
from ladderlm.cli.main import COMMANDS

# A package imports lower numbers only; packages with the same number are strangers.
FLOORS = {
    "cli": 9,
    "dashboard": 8,
    "report": 7,
    "study": 6,
    "compat": 6,  # other people's names for what interop offers
    "executors": 5,
    "interop": 5,
    "scaling": 5,
    "run": 4,
    "train": 3,
    "checkpoint": 2,
    "eval": 2,
    "generate": 2,
    "data": 1,
    "model": 1,
    "optim": 1,
    "tokenizer": 0,
    "floor": -1,  # the modules of the root
}
# Packages of the extras: the rest of the package must run without them.
OPTIONAL = (
    "fastokens gguf gigatoken liger_kernel lm_eval pyarrow ray submitit tensorboard torchao "
    "trackio transformers typst wandb"
).split()
MODULES = [path.removesuffix(".py").replace("/", ".") for path in TREES]
TORCH_FREE = {
    "configs": [m for m in MODULES if m.split(".")[-1] == "config"],
    "data": [m for m in MODULES if m.startswith("data.")],
    "tokenizer": [m for m in MODULES if m.startswith("tokenizer.")],
    "accounting": ["model.accounting", "run.directory", "run.resolve", "dist"],
    "scaling": [m for m in MODULES if m.startswith("scaling.")],
    "study": [m for m in MODULES if m.startswith(("study.", "executors."))],
    "report": [m for m in MODULES if m.startswith(("report.", "dashboard."))],
    "cli": [m for m in MODULES if m.startswith("cli.")],
}


@functools.cache
def all_imports() -> list[tuple[str, Import]]:
    return [(path, found) for path, tree in TREES.items() for found in imports_of(tree)]


def test_every_package_has_a_floor() -> None:
    assert {package_of(path) for path in TREES} <= set(FLOORS)


def test_a_module_imports_lower_floors_only() -> None:
    wrong = []
    for path, found in all_imports():
        if not found.module.startswith(("ladderlm", ".")):
            continue
        own, other = package_of(path), package_of(found.module)
        allowed = other == own or FLOORS[other] < FLOORS[own]
        if other == "interop":
            allowed = own in ("cli", "compat", "interop")
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
