"""Write a report from its facts.

Owns `write_report`: figures, `index.html` (one file without scripts or external resources),
`report.md`, `facts.json`, and the manifest that `verify` checks them against.
"""

import base64
import math
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ladderlm.config import content_hash, to_dict
from ladderlm.files import FolderLock, publish_json, publish_text, read_json, sha256_file
from ladderlm.report.data_facts import TrivialScores
from ladderlm.report.drawing import draw_figures, publish_figure
from ladderlm.report.facts import ReportFacts, facts_of
from ladderlm.report.figures.curves import loss_curves
from ladderlm.report.pages import page_environment
from ladderlm.report.sections import (
    CHANGES,
    RUBRIC,
    Axis,
    AxisOptions,
    discussion,
    headline,
    notes,
    number_of,
    plates,
    reproduce,
)
from ladderlm.report.studies import StudyFacts
from ladderlm.study.ladder import name_rung
from ladderlm.study.records import parse_record, plain
from ladderlm.text import visible
from ladderlm.units import format_bytes, format_count, format_flops, format_seconds

__all__ = ["render_html", "render_markdown", "write_report"]


def write_report(out: Path, runs: list[Path], studies: list[Path], x: Axis = AxisOptions.x) -> Path:
    """Write the report of some runs and studies; return the path of its page.

    Args:
        out: folder of the report.
        runs: run folders, in addition to the runs of the studies.
        studies: study folders.
        x: axis of the first figure of a study, a key of `sections.AXES`.

    Raises:
        ConfigError: there is no finished run, or two studies have the same name.
    """
    with FolderLock(out):
        read = [StudyFacts.read(study, out) for study in studies]
        facts = facts_of(runs, read, out, _known_trivial(out / "facts.json"))
        svgs = _draw_report(facts, read, out)
        stored = facts.to_json()
        publish_json(out / "facts.json", stored)
        publish_text(out / "index.html", render_html(facts, svgs, x))
        publish_text(out / "report.md", render_markdown(facts, svgs, x))
        figures = sorted(f"figures/{name}{kind}" for name in svgs for kind in (".svg", ".png"))
        written = ["facts.json", "index.html", "report.md", *figures]
        manifest = {
            "kind": "ladderlm-report",
            "format_version": 1,
            "runs": [os.path.relpath(run, out) for run in runs],
            "studies": [os.path.relpath(study, out) for study in studies],
            "x": x,
            "facts": content_hash(stored),
            "files": {name: sha256_file(out / name) for name in written},
        }
        publish_json(out / "manifest.json", manifest)
    return out / "index.html"


def _known_trivial(old: Path) -> TrivialScores | None:
    """Return the scores of models without training from an older report, if there is one."""
    values = read_json(old).get("data", {}).get("trivial") if old.is_file() else None
    return None if values is None else parse_record(TrivialScores, values)


def _draw_report(facts: ReportFacts, studies: Sequence[StudyFacts], out: Path) -> dict[str, str]:
    """Write every figure as SVG and PNG; return the SVGs by name."""
    trivial = facts.trivial.bits_per_byte if facts.trivial is not None else {}
    drawn = {"curves": loss_curves(facts.curves.train, facts.curves.validation, trivial)}
    for study in studies:
        about = study.about
        figures = draw_figures(about.arms, about.ladder, study.results, study.fits)
        drawn |= {f"{about.name}-{name}": figure for name, figure in figures.items()}
    return {name: publish_figure(out / "figures" / name, figure) for name, figure in drawn.items()}


def _template_environment(html: bool) -> Environment:
    environment = page_environment(html)
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
        "options": lambda config: _dotted_options(to_dict(config)),
        "plain": plain,
    }
    return environment


def _fixed(value: Any, digits: int = 3) -> str:
    """Return a number with fixed digits, or "not measured"."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:.{digits}f}" if known else "not measured"


def _cell(text: Any) -> str:
    """Make text safe inside a Markdown table."""
    shown = visible(str(text)).replace("\n", " ")
    return re.sub(r"([\\`*_{}\[\]<>()#|!$])", r"\\\1", shown)


def _fence(text: str, language: str = "text") -> str:
    """Return a Markdown code block that the text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{visible(text)}\n{ticks}"


def _dotted_options(config: Any, place: str = "") -> list[tuple[str, Any]]:
    """List the options that are set in nested plain values, by their dotted names."""
    if not isinstance(config, dict):
        return [] if config is None else [(place, config)]
    return [
        option
        for key, value in config.items()
        for option in _dotted_options(value, f"{place}.{key}" if place else key)
    ]


def _template_values(facts: ReportFacts, figures: Collection[str], x: Axis) -> dict[str, object]:
    return {
        "plates": lambda study: plates(study, figures, x),
        "notes": notes,
        "number_of": number_of,
        "facts": facts,
        "best": facts.best_run,
        "trivial": facts.trivial,
        "rubric": RUBRIC,
        "changes": CHANGES,
        "headline": headline(facts),
        "discussion": discussion(facts),
        "commands": reproduce(facts),
    }


def render_html(facts: ReportFacts, svgs: dict[str, str], x: Axis = AxisOptions.x) -> str:
    """Return the page, with the figures (name -> SVG text) embedded and all text escaped."""
    embedded = {
        name: Markup("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())
        for name, svg in svgs.items()
    }
    template = _template_environment(html=True).get_template("report.html.j2")
    return template.render(**_template_values(facts, svgs, x), figures=embedded)


def render_markdown(facts: ReportFacts, figures: Collection[str], x: Axis = AxisOptions.x) -> str:
    """Return the report as Markdown, with links to its figures."""
    template = _template_environment(html=False).get_template("report.md.j2")
    return template.render(**_template_values(facts, figures, x))
