"""The package as syntax trees, for the tests of its structure."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ladderlm

__all__ = ["PACKAGE", "TREES", "Import", "imports_of", "package_of", "public_names"]

PACKAGE = Path(ladderlm.__file__).parent


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
        """Give the tree of a module."""
        if place not in self._parsed:
            self._parsed[place] = ast.parse(self._paths[place].read_text(encoding="utf-8"))
        return self._parsed[place]

    def __iter__(self) -> Iterator[str]:
        """Give the paths, sorted."""
        return iter(self._paths)

    def __len__(self) -> int:
        """Count the modules."""
        return len(self._paths)


TREES = Trees()


def package_of(place: str) -> str:
    """Give the room that a path or a dotted name lies in; modules of the root are the floor."""
    parts = place.removeprefix("ladderlm.").removesuffix(".py").replace("/", ".").split(".")
    return parts[0] if (PACKAGE / parts[0]).is_dir() else "floor"


def imports_of(tree: ast.AST, deferred: bool = False) -> Iterator[Import]:
    """Give every import statement of a tree, those inside functions marked as deferred."""
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
    """Give `__all__` of a module, which is a plain list of strings; [] if it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []
