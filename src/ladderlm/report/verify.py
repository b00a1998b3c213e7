"""Check a report against its runs.

Owns `verify_report`: the facts are gathered again from the run and study folders and compared one
by one, the page is rendered again, and every file is compared with the manifest.
"""

from pathlib import Path
from typing import Any

from ladderlm.config import content_hash
from ladderlm.errors import DataError, LadderError
from ladderlm.files import read_json, sha256_file
from ladderlm.report.facts import FACTS_VERSION, ReportFacts, gather
from ladderlm.report.render import render_html, render_markdown
from ladderlm.report.sections import AXES, Axis, AxisOptions

__all__ = ["verify_report"]


def verify_report(folder: Path) -> list[str]:
    """Return the problems that were found, one line each.

    Raises:
        DataError: the folder is not a report.
    """
    if not (folder / "manifest.json").is_file():
        raise DataError(
            f"{folder} is not a report (no manifest.json)", fix="name the folder of index.html"
        )
    manifest = read_json(folder / "manifest.json")
    problems = []
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256_file(path) != digest:
            problems.append(f"{name} was changed after it was written")
    facts = read_json(folder / "facts.json")
    version = facts.get("facts_version")
    if version != FACTS_VERSION:
        return [
            *problems,
            f"facts.json must have version {FACTS_VERSION}, got {version}: write the report again",
        ]
    if content_hash(facts) != manifest["facts"]:
        problems.append("facts.json was changed after it was written")
    try:
        runs = [folder / place for place in manifest["runs"]]
        studies = [folder / place for place in manifest["studies"]]
        again = gather(runs, studies, folder)
    except (LadderError, LookupError, OSError, TypeError, ValueError, AttributeError) as error:
        return [*problems, f"the sources cannot be read again: {error}"]
    problems += compare_values(facts, again.to_json())
    if not problems:
        x: Axis = next((name for name in AXES if name == manifest.get("x")), AxisOptions.x)
        svgs = {
            Path(name).stem: (folder / name).read_text(encoding="utf-8")
            for name in manifest["files"]
            if name.endswith(".svg")
        }
        stated = ReportFacts.from_json(facts)
        for name, text in (
            ("index.html", render_html(stated, svgs, x)),
            ("report.md", render_markdown(stated, svgs, x)),
        ):
            if (folder / name).read_text(encoding="utf-8") != text:
                problems.append(f"{name} is not what the facts render to")
    return problems


def compare_values(stated: Any, found: Any, place: str = "facts") -> list[str]:
    """List where two JSON values differ, by dotted path; numbers may differ in the last bits."""
    if isinstance(stated, dict) and isinstance(found, dict):
        keys = sorted(set(stated) | set(found))
        parts = [(f"{place}.{key}", stated.get(key), found.get(key)) for key in keys]
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        pairs = zip(stated, found, strict=True)
        parts = [(f"{place}[{i}]", *pair) for i, pair in enumerate(pairs)]
    elif stated == found or _nearly_equal(stated, found):
        return []
    else:
        texts = [
            text if len(text) <= 60 else text[:57] + "..." for text in map(repr, (stated, found))
        ]
        return [f"{place}: the report says {texts[0]}, the sources say {texts[1]}"]
    return [line for part, a, b in parts for line in compare_values(a, b, part)]


def _nearly_equal(a: Any, b: Any) -> bool:
    """Return whether two floats agree up to differences between linear algebra libraries."""
    return (
        isinstance(a, float) and isinstance(b, float) and abs(a - b) <= 1e-9 * max(abs(a), abs(b))
    )
