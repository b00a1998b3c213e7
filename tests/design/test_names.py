"""Names and signatures: one meaning a name, few parameters, typed values between the rooms.

Every `STILL_...` lists what does not keep a rule yet. It can only shrink: a new offender fails, and
so does an entry that has none any more.
"""

import ast
import re
from collections.abc import Collection, Iterator

import pytest

from design.sources import TREES, package_of

Function = ast.FunctionDef | ast.AsyncFunctionDef

MAX_PARAMETERS = 7  # of a function; a dataclass may have more fields
# Names that several modules share because they mean the same thing in each.
SHARED = {
    "run": "carries out a command of the command line; cli/main.py calls it by this name",
    "main": "what a module does when Python runs it as a program",
    "Transformer": "Meta's name, kept by our model and by the one that has Meta's signature",
    "Tokenizer": "Meta's name, kept by our interface and by the one that has Meta's signature",
}
# Functions whose parameters are not ours to choose.
GIVEN = {"Llama.build": "Meta's own signature, which code written for it calls"}
# Functions of study/ and report/ at the edge, where values are what JSON holds.
EDGE = ("to_json", "from_json")
UNTYPED = "dict[str, Any]"

STILL_SHARED: tuple[str, ...] = ()
STILL_LONG: tuple[str, ...] = ()
STILL_UNTYPED: tuple[str, ...] = ()


def check_list(found: Collection[str], known: Collection[str], rule: str) -> None:
    """Compare what breaks a rule with the list of what is known to."""
    new, gone = sorted(set(found) - set(known)), sorted(set(known) - set(found))
    assert not new, f"{rule}:\n" + "\n".join(new)
    assert not gone, "no longer so, remove it from the list:\n" + "\n".join(gone)


def functions_of(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Function]]:
    """Yield every function of a tree with the names it stands in, such as Class.method."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}.{node.name}" if inside else node.name
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions_of(node, name)
        else:
            yield from functions_of(node, inside)


def parameters_of(function: Function) -> list[str]:
    """Return the names of a function's parameters but self and cls."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def names_of(tree: ast.Module) -> set[str]:
    """Return the names of a module's classes and functions, private ones too."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


def is_untyped(function: Function, aliases: Collection[str] = ()) -> bool:
    """Return whether a signature holds a dict of anything, or an alias of one."""
    arguments = function.args
    parameters = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    parts = [a.annotation for a in parameters] + [function.returns]
    shown = [ast.unparse(part) for part in parts if part is not None]
    words = {word for part in shown for word in re.findall(r"\w+", part)}
    return any(UNTYPED in part for part in shown) or not words.isdisjoint(aliases)


def aliases_of(tree: ast.Module) -> set[str]:
    """Return the module's own names for a dict of anything."""
    return {
        ast.unparse(node.targets[0])
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == UNTYPED
    }


def test_no_function_takes_more_parameters_than_one_can_hold_in_mind() -> None:
    found = [
        name
        for tree in TREES.values()
        for name, function in functions_of(tree)
        if len(parameters_of(function)) > MAX_PARAMETERS
    ]
    gone = sorted(set(GIVEN) - set(found))
    assert not gone, f"short enough now, remove it from the list: {gone}"
    found = [name for name in found if name not in GIVEN]
    check_list(found, STILL_LONG, f"more than {MAX_PARAMETERS} parameters")


def test_a_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path, tree in TREES.items():
        for name in names_of(tree):
            places.setdefault(name, []).append(path)
    several = {name: paths for name, paths in places.items() if len(paths) > 1}
    gone = sorted(set(SHARED) - set(several))
    assert not gone, f"in one module alone, remove it from the list: {gone}"
    found = set(several) - set(SHARED)
    shown = "\n".join(f"{name}: {', '.join(several[name])}" for name in sorted(found))
    check_list(found, STILL_SHARED, f"shared:\n{shown}\nnew ones, one name for several things")


def test_studies_and_reports_pass_typed_values() -> None:
    rooms = {p: tree for p, tree in TREES.items() if package_of(p) in ("study", "report")}
    aliases = {name for tree in rooms.values() for name in aliases_of(tree)}
    found = [
        f"{package_of(path)}: {name}"
        for path, tree in rooms.items()
        for name, function in functions_of(tree)
        if is_untyped(function, aliases) and name.split(".")[-1] not in EDGE
    ]
    check_list(found, STILL_UNTYPED, "dict[str, Any] in a signature")


@pytest.mark.parametrize(
    ("code", "n"),
    [
        ("def f(a, /, b, *rest, c=1, **more): ...", 3),
        ("class A:\n    def f(self, a, b): ...", 2),
        ("if True:\n    async def f(a): ...", 1),
    ],
)
def test_parameters_are_counted_without_self(code: str, n: int) -> None:
    ((_, function),) = functions_of(ast.parse(code))
    assert len(parameters_of(function)) == n


def test_a_new_offender_fails_and_so_does_an_entry_that_no_longer_holds() -> None:
    check_list(["a"], ["a"], "rule")
    with pytest.raises(AssertionError, match=r"rule:\s+b"):
        check_list(["a", "b"], ["a"], "rule")
    with pytest.raises(AssertionError, match=r"remove it from the list:\s+a"):
        check_list([], ["a"], "rule")
