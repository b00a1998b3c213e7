"""From facts to the document.

Owns `write_report`: figures, `index.html` (one file, no script, nothing loaded), `report.md`,
`facts.json` and the manifest by which `verify` checks them.
"""

import base64
import contextlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import (
    FolderLock,
    publish,
    publish_json,
    publish_text,
    read_json,
    sha256_file,
)
from ladderlm.report.facts import gather
from ladderlm.report.figures.curves import loss_curves
from ladderlm.report.figures.forecast import forecast_figure
from ladderlm.report.figures.scaling import scaling_figure
from ladderlm.report.figures.style import png_bytes, svg_text
from ladderlm.report.sections import CHANGES, RUBRIC, discussion, headline, reproduce
from ladderlm.scaling.compare import Comparison, compare_arms
from ladderlm.scaling.joint import LadderLaw, Points, fit_law
from ladderlm.study.forecast import score_forecast
from ladderlm.study.results import points_of
from ladderlm.study.tuning import Tuning, rate_shift
from ladderlm.text import visible
from ladderlm.units import format_bytes, format_count, format_flops, format_seconds

__all__ = [
    "draw_study",
    "publish_figure",
    "render_html",
    "render_markdown",
    "visible",
    "write_report",
]

Facts = dict[str, Any]


def write_report(out: Path, runs: list[Path], studies: list[Path]) -> Path:
    """Write the report of some runs and studies; give the path of its page.

    Args:
        out: folder of the report.
        runs: run folders beside those of the studies.
        studies: study folders.

    Raises:
        ConfigError: there is no finished run.
    """
    with FolderLock(out):
        old = out / "facts.json"
        trivial = read_json(old).get("data", {}).get("trivial") if old.is_file() else None
        facts = gather(runs, studies, out, trivial)
        svgs = _draw(facts, out)
        publish_json(out / "facts.json", facts)
        publish_text(out / "index.html", render_html(facts, svgs))
        publish_text(out / "report.md", render_markdown(facts))
        figures = [f"figures/{name}{suffix}" for name in svgs for suffix in (".svg", ".png")]
        written = ["facts.json", "index.html", "report.md", *sorted(figures)]
        manifest = {
            "kind": "ladderlm-report",
            "format_version": 1,
            "runs": [_relative(run, out) for run in runs],
            "studies": [_relative(study, out) for study in studies],
            "facts": content_hash(facts),
            "files": {name: sha256_file(out / name) for name in written},
        }
        publish_json(out / "manifest.json", manifest)
    return out / "index.html"


def _relative(place: Path, home: Path) -> str:
    return os.path.relpath(place, home)


def draw_study(study: Facts) -> dict[str, Any]:
    """Draw a study over FLOPs, device time and tokens, and its forecast; give figures by name.

    Args:
        study: of the facts.
    """
    figures = {}
    names = [arm["name"] for arm in study["arms"]]
    n_rungs = len(study["ladder"]["flops"])
    held = set(range(n_rungs - study["ladder"]["holdout"], n_rungs))
    hardware = sorted({str(row["hardware"]) for row in study["rows"] if row.get("hardware")})
    tunings = [Tuning.from_json(tuning) for tuning in study["fits"].get("tuning", [])]
    for x in ("flops", "device_seconds", "tokens"):
        rows = [row for row in study["rows"] if not row["excluded_because"]]
        points = points_of(rows, x=x)
        comparisons: list[Comparison] = []
        law = None
        with contextlib.suppress(DataError):  # the figure says that there are not enough points
            law = fit_law(points, names[0])
        for name in names[1:]:
            shift = rate_shift(tunings, (names[0], name), study["ladder"]["flops"])
            with contextlib.suppress(DataError):
                comparisons.append(compare_arms(points, names[0], name, shift))
        caption = _caption(study, points, law)
        if x == "device_seconds":
            caption.append(f"times of runs on {', '.join(hardware)}")
        span = points.x.max() / points.x.min() if len(points) else 0
        if x == "flops" and span < 9.9:
            caption.append(f"only {span:.1f}x of compute: too little to say how the effect scales")
        figures[x] = scaling_figure(points, names, law, comparisons, held, x, caption)
    scores = score_forecast(study.get("forecast"), study["rows"])
    if scores:
        written = study["forecast"]["timing"]["written_at"]
        figures["forecast"] = forecast_figure(scores, names, f"written {written}")
    return figures


def _caption(study: Facts, points: Points, law: LadderLaw | None) -> list[str]:
    """Say what a scaling figure rests on."""
    flops = sum(float(row["flops"]) for row in study["rows"] if not row["excluded_because"])
    seeds = len(np.unique(points.seed))
    lines = [
        f"{len(points)} runs: {len(study['arms'])} arms, {len(np.unique(points.rung))} rungs, "
        f"{seeds} seed{'s' * (seeds != 1)}; {format_flops(flops)} in all; bands and bars: 95 %"
    ]
    if law is not None:
        floor = "E free" if law.floor else "E = 0"
        lines.append(f"{law.form.formula}; {floor}")
        lines.append("least squares of ln L on the means of arm and rung")
    return lines


def _draw(facts: Facts, out: Path) -> dict[str, str]:
    """Write every figure as SVG and PNG; give the SVGs by name."""
    trivial = facts["data"].get("trivial", {}).get("bits_per_byte", {})
    curves = facts["curves"]
    drawn = {"curves": loss_curves(curves["train"], curves["validation"], trivial)}
    for study in facts["studies"]:
        for x, figure in draw_study(study).items():
            drawn[f"{study['name']}-{x}"] = figure
    return {name: publish_figure(out / "figures" / name, figure) for name, figure in drawn.items()}


def publish_figure(path: Path, figure: Any) -> str:
    """Publish a figure as `path`.svg and `path`.png; give the SVG."""
    svg, image = svg_text(figure), png_bytes(figure)
    publish_text(path.with_name(path.name + ".svg"), svg)
    publish(path.with_name(path.name + ".png"), lambda stream: stream.write(image))
    return svg


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


def _context(facts: Facts) -> Facts:
    return {
        "facts": facts,
        "best": next(run for run in facts["runs"] if run["run_id"] == facts["best"]),
        "rubric": RUBRIC,
        "changes": CHANGES,
        "headline": headline(facts),
        "discussion": discussion(facts),
        "commands": reproduce(facts),
        "trivial": facts["data"].get("trivial", {}),
    }


def render_html(facts: Facts, svgs: dict[str, str]) -> str:
    """Give the page; figures are embedded, all text is escaped.

    Args:
        svgs: name -> SVG text.
    """
    embedded = {
        name: Markup("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())
        for name, svg in svgs.items()
    }
    template = _environment(html=True).get_template("report.html.j2")
    return template.render(**_context(facts), figures=embedded)


def render_markdown(facts: Facts) -> str:
    """Give the document as Markdown, beside its figures."""
    template = _environment(html=False).get_template("report.md.j2")
    return template.render(**_context(facts))
