"""Write docs/options.md from the dataclasses, the one place where options are declared.

python docs/options.py [--check]      --check writes nothing and fails if the page is old
"""
# ruff: noqa: T201

import dataclasses
import inspect
import sys
import typing
from pathlib import Path
from typing import Any

from ladderlm.config import field_docs
from ladderlm.files import publish_text
from ladderlm.study.options import LadderOptions, SearchOptions
from ladderlm.train.run_config import RunConfig

PAGE = Path(__file__).with_name("options.md")
HEAD = """\
# Options

Made by `docs/options.py` from the dataclasses; do not edit.

Every option is a flag of `ladderlm train` (`--model.dim 384`), a key of a config file (`[model]`
`dim = 384`) and a dotted name in a study file (`"model.dim" = 384`). Options marked * set how a run
is carried out; they are recorded but do not change its name. Leave an option out for its default;
on the command line `None` sets an optional one back to it.
"""


def rows(cls: type, place: str = "") -> list[str]:
    """Return a table row for every option below a dataclass."""
    hints, docs = typing.get_type_hints(cls), field_docs(cls)
    made = []
    for field in dataclasses.fields(cls):
        kind, name = hints[field.name], place + field.name
        if dataclasses.is_dataclass(kind):
            section = typing.cast(type, kind)
            made += ["", f"## {name}", "", (inspect.getdoc(section) or "").split("\n")[0], ""]
            made += ["| option | type | default | meaning |", "|---|---|---|---|"]
            made += rows(section, f"{name}.")
            continue
        star = " *" if field.metadata.get("ladderlm.half") == "execution" else ""
        shown = "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        shown = "" if field.default in (None, ()) else shown
        cells = [f"`{name}`{star}", f"`{spell(kind)}`", shown, docs[field.name]]
        made.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return made


def spell(kind: Any) -> str:
    """Return a type as it is written."""
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def page() -> str:
    """Return the whole page."""
    sections = rows(RunConfig)
    top = [row for row in sections if row.startswith(("| `out`", "| `numerics_version`"))]
    rest = [row for row in sections if row not in top]
    table = ["| option | type | default | meaning |", "|---|---|---|---|"]
    ladder = ["", "## ladder (of a study file)", "", *table, *rows(LadderOptions, "ladder.")]
    search = ["", "## search (of a study file)", "", *table, *rows(SearchOptions, "search.")]
    run = ["", "## the run", "", *table, *top]
    return HEAD + "\n".join([*rest, *run, *ladder, *search]).rstrip() + "\n"


def main(argv: list[str]) -> int:
    """Write the page, or say that it is old."""
    text = page()
    if "--check" in argv:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("docs/options.md is as it should be" if same else "run python docs/options.py")
        return 0 if same else 1
    publish_text(PAGE, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
