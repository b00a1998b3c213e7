"""The package as syntax trees, for the tests of its structure."""

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ladderlm

__all__ = [
    "PACKAGE",
    "ROOT",
    "TREES",
    "Import",
    "find_circles",
    "imports_of",
    "load_page",
    "package_of",
    "public_names",
]

PACKAGE = Path(ladderlm.__file__).parent
ROOT = Path(__file__).resolve().parents[2]


def load_page(name: str) -> Any:
    """Load docs/`name`.py, which makes pages of the documents."""
    specification = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Import:
    """One imported name.

    Args:
        module: as written, ladderlm.data.batch; `from a import b` gives a.
        names: what is taken out of it; () for `import a`.
        line: where.
        deferred: inside a function, or only for the type checker.
    """

    module: str
    names: tuple[str, ...]
    line: int
    deferred: bool


class Trees(Mapping[str, ast.Module]):
    """The tree of every module by its path, such as data/batch.py; parsed when it is asked for.

    Every process of the suite collects the tests that look at these, and few run them.
    """

    def __init__(self) -> None:
        self._paths = {p.relative_to(PACKAGE).as_posix(): p for p in sorted(PACKAGE.rglob("*.py"))}
        self._parsed: dict[str, ast.Module] = {}

    def __getitem__(self, place: str) -> ast.Module:
        """Return the tree of a module."""
        if place not in self._parsed:
            self._parsed[place] = ast.parse(self._paths[place].read_text(encoding="utf-8"))
        return self._parsed[place]

    def __iter__(self) -> Iterator[str]:
        """Return the paths, sorted."""
        return iter(self._paths)

    def __len__(self) -> int:
        """Count the modules."""
        return len(self._paths)


TREES = Trees()


def package_of(place: str) -> str:
    """Return the room that a path or a dotted name lies in; modules of the root are the floor."""
    parts = place.removeprefix("ladderlm.").removesuffix(".py").replace("/", ".").split(".")
    return parts[0] if (PACKAGE / parts[0]).is_dir() else "floor"


def imports_of(tree: ast.AST, deferred: bool = False) -> Iterator[Import]:
    """Return every import statement of a tree, those inside functions marked as deferred."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), node.lineno, deferred)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield Import(module, tuple(a.name for a in node.names), node.lineno, deferred)
        else:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from imports_of(node, deferred or is_function or is_typing)


def public_names(tree: ast.Module) -> list[str]:
    """Return `__all__` of a module, which is a plain list of strings; [] if it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def find_circles() -> list[set[str]]:
    """Return every set of modules that import each other in a circle, deferred imports included."""
    graph = {path: imported_modules(path) for path in TREES}
    reached = {path: reachable(path, graph) for path in graph}
    circles: list[set[str]] = []
    for path in graph:
        circle = {other for other in reached[path] if path in reached[other]}
        if circle and circle not in circles:
            circles.append(circle)
    return circles


def imported_modules(path: str) -> set[str]:
    """Return the paths of the modules that a module imports from the package."""
    found = set()
    for item in imports_of(TREES[path]):
        for name in (item.module, *(f"{item.module}.{name}" for name in item.names)):
            place = name.removeprefix("ladderlm.").replace(".", "/") + ".py"
            if name.startswith("ladderlm.") and place in TREES:
                found.add(place)
    return found


def reachable(path: str, graph: Mapping[str, set[str]]) -> set[str]:
    """Return every module that is imported by a module or by what it imports."""
    found: set[str] = set()
    new = set(graph[path])
    while new:
        found |= new
        new = {other for one in new for other in graph[one]} - found
    return found
