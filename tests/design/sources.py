"""The package as syntax trees, for the tests of its structure."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ladderlm

__all__ = ["PACKAGE", "Import", "imports_of", "package_of", "parse_package", "public_names"]

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


def parse_package() -> dict[str, ast.Module]:
    """Give the tree of every module by its path, such as data/batch.py."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


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
