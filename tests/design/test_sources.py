"""Rules that every module keeps: how files are written, what is public, how long it may be."""

import ast
import re
from collections.abc import Iterator

import pytest

from design.sources import PACKAGE, TREES, imports_of, public_names

MODULES = [path for path in TREES if not path.endswith("/__init__.py")]
MAX_LINES = 400
# Calls that put something on disk; `files.py` alone may use them on a path.
WRITERS = (
    "os.replace os.rename os.link os.symlink os.write os.truncate json.dump pickle.dump np.save "
    "np.savez np.savez_compressed np.savetxt np.memmap torch.save shutil.copy shutil.copy2 "
    "shutil.copyfile shutil.copyfileobj shutil.copytree shutil.move tempfile.mkstemp "
    "tempfile.NamedTemporaryFile"
).split()
WRITING_METHODS = (
    "write_text write_bytes tofile savefig save_file rename symlink_to hardlink_to"
).split()
OPENERS = ("open", "fdopen", "GzipFile", "ZipFile")
STREAM_MAKERS = ("publish_stream", "BytesIO", "StringIO")
# Not a file at all: output that nobody reads any more goes nowhere.
EXCEPTIONS = {("cli/main.py", "open(os.devnull, 'w')")}


def stream_names(tree: ast.AST) -> set[str]:
    """Return the names that hold a stream of `files.publish*` or a buffer in memory."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "publish":
            for argument in node.args:
                if isinstance(argument, ast.Lambda):
                    names |= {parameter.arg for parameter in argument.args.args}
        makes: list[tuple[ast.expr, ast.expr | None]] = []
        if isinstance(node, ast.With):
            makes = [(item.context_expr, item.optional_vars) for item in node.items]
        elif isinstance(node, ast.Assign):
            makes = [(node.value, node.targets[0])]
        names |= {
            name.id
            for maker, name in makes
            if isinstance(maker, ast.Call)
            and isinstance(name, ast.Name)
            and ast.unparse(maker.func).endswith(STREAM_MAKERS)
        }
    return names


def opens_for_writing(call: ast.Call) -> bool:
    """Return whether a call of something named open may write: its mode says so, or is unknown."""
    if ast.unparse(call.func) == "os.open":
        return re.search("WRONLY|RDWR|CREAT|APPEND", ast.unparse(call)) is not None
    is_method = isinstance(call.func, ast.Attribute) and len(call.args) == 1
    modes = call.args[0 if is_method else 1 :][:1]
    modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    for mode in modes:
        if not isinstance(mode, ast.Constant):
            return not is_method  # a path of another module's open, or a mode that is not known
        if re.fullmatch(r"[rwaxbt+]{1,4}", str(mode.value)) and set(str(mode.value)) & set("wax+"):
            return True
    return False


def find_writes(tree: ast.AST) -> Iterator[ast.Call]:
    """Return the calls that write files otherwise than through `files.py`."""
    streams = stream_names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if any(isinstance(a, ast.Name) and a.id in streams for a in node.args):
            continue
        function = ast.unparse(node.func)
        name = function.split(".")[-1]
        is_file = function != "Study.open"  # reads a study
        opens = name in OPENERS and is_file and opens_for_writing(node)
        if opens or function in WRITERS or name in WRITING_METHODS:
            yield node


def test_files_are_written_by_files_alone() -> None:
    """C16: nothing is published but through `files.publish` and its kin."""
    found = [
        f"{path}:{call.lineno}: {ast.unparse(call)}"
        for path, tree in TREES.items()
        for call in find_writes(tree)
        if path != "files.py" and (path, ast.unparse(call)) not in EXCEPTIONS
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, 'r+')",
        "open(path, mode)",
        "path.open('wb')",
        "gzip.open(path, 'wt')",
        "path.write_text('x')",
        "path.write_bytes(b'x')",
        "os.replace(a, b)",
        "a.rename(b)",
        "np.save(path, array)",
        "np.savez_compressed(path, a=array)",
        "array.tofile(path)",
        "torch.save(state, path)",
        "json.dump(value, stream)",
        "save_file(tensors, path)",
        "figure.savefig(path)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
    ],
)
def test_the_search_for_writes_finds(code: str) -> None:
    assert list(find_writes(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'rb')",
        "open('wax')",
        "path.open()",
        "os.open(path, os.O_RDONLY)",
        "publish(path, lambda stream: np.save(stream, array))",
        "with publish_stream(path) as raw:\n    zstd.open(raw, 'wb')",
        "buffer = io.BytesIO()\nfigure.savefig(buffer)",
        "text.replace('a', 'b')",
    ],
)
def test_the_search_for_writes_leaves_alone(code: str) -> None:
    assert not list(find_writes(ast.parse(code)))


def test_nothing_unpickles() -> None:
    found = []
    for path, tree in TREES.items():
        names = {name.module.split(".")[0] for name in imports_of(tree)}
        text = (PACKAGE / path).read_text(encoding="utf-8")
        if names & {"pickle", "dill", "joblib", "shelve"}:
            found.append(f"{path} imports a pickler")
        if "torch.load" in text or "allow_pickle=True" in text:
            found.append(f"{path} loads pickles")
    assert found == ["convert/pickles.py loads pickles"], "\n".join(found)


def test_foreign_pickles_are_opened_for_their_weights_alone() -> None:
    """I01: the one call of torch.load says so, and runs in a child (see test_pickles.py)."""
    calls = [
        ast.unparse(node)
        for node in ast.walk(TREES["convert/pickles.py"])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert len(calls) == 1
    assert "weights_only=True" in calls[0]


def test_only_commands_print() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "sys.stdout.write")
        and not path.startswith("cli/")
    ]
    assert not found, "\n".join(found)


def test_every_module_says_what_it_owns() -> None:
    silent = [path for path in MODULES if not ast.get_docstring(TREES[path])]
    assert not silent


def test_no_module_is_too_long_for_one_idea() -> None:
    sizes = {path: len((PACKAGE / path).read_text("utf-8").splitlines()) for path in MODULES}
    assert {path: n for path, n in sizes.items() if n > MAX_LINES} == {}


def test_every_module_names_what_is_public() -> None:
    found = []
    for path in MODULES:
        if path.endswith("__main__.py"):
            continue
        public = public_names(TREES[path])
        bound = {name for node in TREES[path].body for name in bound_names(node)}
        if not public:
            found.append(f"{path}: no __all__")
        elif path != "__init__.py" and not set(public) <= bound:  # there the names come lazily
            found.append(f"{path}: {sorted(set(public) - bound)} do not exist")
    assert not found, "\n".join(found)


def bound_names(node: ast.stmt) -> Iterator[str]:
    """Return the names that a statement of a module binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)


def test_an_assertion_is_never_the_answer_to_bad_input() -> None:
    """`python -O` removes assertions, so that none may guard input, files or hardware."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                assert not re.search(r"exists\(|is_file\(|is_dir\(", ast.unparse(node.test)), path
