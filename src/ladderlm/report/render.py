"""From facts to the document.

Owns `write_report`: figures, `index.html` (one file, no script, nothing loaded), `report.md`,
`facts.json` and the manifest by which `verify` checks them.
"""

import base64
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ladderlm.config import content_hash
from ladderlm.files import (
    FolderLock,
    publish_json,
    publish_text,
    read_json,
    sha256_file,
)
from ladderlm.report.drawing import draw_figures, publish_figure
from ladderlm.report.facts import facts_of
from ladderlm.report.figures.curves import loss_curves
from ladderlm.report.sections import (
    CHANGES,
    RUBRIC,
    Axis,
    discussion,
    headline,
    notes,
    plates,
    reproduce,
)
from ladderlm.report.studies import StudyFacts
from ladderlm.study.ladder import name_rung
from ladderlm.text import visible
from ladderlm.units import format_bytes, format_count, format_flops, format_seconds

__all__ = [
    "render_html",
    "render_markdown",
    "visible",
    "write_report",
]

Facts = dict[str, Any]


def write_report(out: Path, runs: list[Path], studies: list[Path], x: Axis = "flops") -> Path:
    """Write the report of some runs and studies; give the path of its page.

    Args:
        out: folder of the report.
        runs: run folders beside those of the studies.
        studies: study folders.
        x: what the first figure of a study is drawn against, of `sections.AXES`.

    Raises:
        ConfigError: there is no finished run.
    """
    with FolderLock(out):
        old = out / "facts.json"
        trivial = read_json(old).get("data", {}).get("trivial") if old.is_file() else None
        read = [StudyFacts.read(study, out) for study in studies]
        facts = facts_of(runs, read, out, trivial)
        svgs = _draw(facts, read, out)
        publish_json(out / "facts.json", facts)
        publish_text(out / "index.html", render_html(facts, svgs, x))
        publish_text(out / "report.md", render_markdown(facts, svgs, x))
        figures = [f"figures/{name}{suffix}" for name in svgs for suffix in (".svg", ".png")]
        written = ["facts.json", "index.html", "report.md", *sorted(figures)]
        manifest = {
            "kind": "ladderlm-report",
            "format_version": 1,
            "runs": [_relative(run, out) for run in runs],
            "studies": [_relative(study, out) for study in studies],
            "x": x,
            "facts": content_hash(facts),
            "files": {name: sha256_file(out / name) for name in written},
        }
        publish_json(out / "manifest.json", manifest)
    return out / "index.html"


def _relative(place: Path, home: Path) -> str:
    return os.path.relpath(place, home)


def _draw(facts: Facts, studies: list[StudyFacts], out: Path) -> dict[str, str]:
    """Write every figure as SVG and PNG; give the SVGs by name."""
    trivial = facts["data"].get("trivial", {}).get("bits_per_byte", {})
    curves = facts["curves"]
    drawn = {"curves": loss_curves(curves["train"], curves["validation"], trivial)}
    for study in studies:
        about = study.about
        figures = draw_figures(about.arms, about.ladder, study.results, study.fits)
        drawn |= {f"{about.name}-{name}": figure for name, figure in figures.items()}
    return {name: publish_figure(out / "figures" / name, figure) for name, figure in drawn.items()}


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("ladderlm.report", "templates"),
        autoescape=html,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": format_bytes,
        "count": format_count,
        "flops": format_flops,
        "seconds": format_seconds,
        "visible": visible,
        "fixed": _fixed,
        "percent": lambda value: f"{value:+.1%}",
        "name_rung": name_rung,
        "anchor": lambda text: re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-"),
        "cell": _cell,
        "fence": _fence,
        "tree": _flat,
    }
    return environment


def _shown(value: Any) -> Any:
    """Make control characters visible in whatever a template prints."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _fixed(value: Any, digits: int = 3) -> str:
    """Spell a number, or say that there is none."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "not measured"


def _cell(text: Any) -> str:
    """Make text safe inside a Markdown table."""
    shown = visible(str(text)).replace("\n", " ")
    return re.sub(r"([\\`*_{}\[\]<>()#|!$])", r"\\\1", shown)


def _fence(text: str, language: str = "text") -> str:
    """Quote any text as a Markdown code block that it cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{visible(text)}\n{ticks}"


def _flat(config: Facts) -> list[tuple[str, Any]]:
    """List a nested config as dotted options."""
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            found += [(f"{key}.{name}", item) for name, item in _flat(value)]
        elif value is not None:
            found.append((key, value))
    return found


def _context(facts: Facts, figures: Collection[str], x: Axis) -> Facts:
    return {
        "plates": lambda study: plates(study, figures, x),
        "notes": notes,
        "facts": facts,
        "best": next(run for run in facts["runs"] if run["run_id"] == facts["best"]),
        "rubric": RUBRIC,
        "changes": CHANGES,
        "headline": headline(facts),
        "discussion": discussion(facts),
        "commands": reproduce(facts),
        "trivial": facts["data"].get("trivial", {}),
    }


def render_html(facts: Facts, svgs: dict[str, str], x: Axis = "flops") -> str:
    """Give the page; figures are embedded, all text is escaped.

    Args:
        svgs: name -> SVG text.
        x: what the first figure of a study is drawn against.
    """
    embedded = {
        name: Markup("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())
        for name, svg in svgs.items()
    }
    template = _environment(html=True).get_template("report.html.j2")
    return template.render(**_context(facts, svgs, x), figures=embedded)


def render_markdown(facts: Facts, figures: Collection[str], x: Axis = "flops") -> str:
    """Give the document as Markdown, beside its figures."""
    template = _environment(html=False).get_template("report.md.j2")
    return template.render(**_context(facts, figures, x))
