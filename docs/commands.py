"""Make docs/commands.md from the parsers of the commands; `python docs/build.py` writes it."""

import contextlib
import dataclasses
import inspect
import io
import typing
from typing import Any
from unittest import mock

from ladderlm.cli.main import GROUPS, main
from ladderlm.cli.options import options_of

HEAD = """\
# Commands

Made by `python docs/build.py` from the parsers of the commands; do not edit. `ladderlm COMMAND
--help` shows the same. `--a-b` and `--a_b` are the same flag, and `--a 1` and `--a=1` too. With any
command, `--debug` shows the traceback of an error.

Exit codes: 0 done, 1 failed, 2 wrong use or bad input, 130 interrupted, 143 stopped by SIGTERM
after saving. A size takes a unit, for example `500MB` or `2GiB`. `None` sets an option back to
having no value.
"""


class Parsed(typing.NamedTuple):
    """What a command asks its parser for."""

    words: str
    cls: type
    description: str


def parser_of(words: list[str]) -> Parsed | None:
    """Return what a command asks for; None if it only lists its verbs."""
    found: list[Parsed] = []

    def record(cls: type, *, description: str, **_: Any) -> None:
        found.append(Parsed(" ".join(words), cls, inspect.cleandoc(description)))
        raise SystemExit(0)

    unheard = contextlib.redirect_stdout(io.StringIO())
    with mock.patch("tyro.cli", record), contextlib.suppress(SystemExit), unheard:
        main([*words, "--help"])
    return found[0] if found else None


def all_parsers() -> list[Parsed]:
    """Return the parsers of all commands and verbs, in the order of `ladderlm --help`."""
    words = [
        [name, *verb]
        for commands in GROUPS.values()
        for name, (_, _, verbs) in commands.items()
        for verb in ([], *([verb] for verb in verbs))
    ]
    return [parser for parser in map(parser_of, words) if parser is not None]


def section(parsers: list[Parsed]) -> list[str]:
    """Return the lines of one command, or of several that ask for the same."""
    cls = parsers[0].cls
    options = list(options_of(cls))
    sections = [o.name for o in options if dataclasses.is_dataclass(typing.get_args(o.kind)[0])]
    options = [option for option in options if option.name not in sections]
    options.sort(key=lambda option: not option.is_positional)
    places = " ".join(str(option.metavar) for option in options if option.is_positional)
    titles = [f"`ladderlm {f'{parser.words} {places}'.strip()}`" for parser in parsers]
    texts = dict.fromkeys(parser.description for parser in parsers)
    lines = ["", f"### {', '.join(titles)}", "", *"\n\n".join(texts).splitlines(), ""]
    if options:
        lines += ["| option | default | meaning |", "|---|---|---|"]
    for option in options:
        flag = "--" + option.flag.replace("_", "-")
        spelt = option.metavar if option.is_positional else f"{flag} {option.metavar or ''}".strip()
        shown = "required" if option.is_required else option.default
        cells = [
            f"`{spelt}`",
            shown and f"`{shown}`".replace("`required`", "required"),
            option.text,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if sections:
        lines += ["", f"Every option of [{', '.join(sections)}](options.md) is a flag too."]
    return lines


def page() -> str:
    """Return the whole page."""
    lines, parsers = [], all_parsers()
    for group, commands in GROUPS.items():
        lines += ["", f"## {group}"]
        for name in commands:
            own = [parser for parser in parsers if parser.words.split()[0] == name]
            for cls in dict.fromkeys(parser.cls for parser in own):
                lines += section([parser for parser in own if parser.cls is cls])
    return HEAD + "\n".join(lines) + "\n"
