"""Make docs/options.md from the dataclasses of configs; `python docs/build.py` writes it."""

import dataclasses
import inspect
import typing
from typing import Any

from ladderlm.config import field_docs
from ladderlm.study.options import LadderOptions, SearchOptions
from ladderlm.training.run_config import RunConfig

HEAD = """\
# Options

Made by `python docs/build.py` from the dataclasses of configs; do not edit.

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
