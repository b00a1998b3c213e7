"""Check a report against the runs it speaks of.

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
    """List what does not hold; empty when everything does.

    Raises:
        DataError: the folder is not a report.
    """
    if not (folder / "manifest.json").is_file():
        raise DataError(
            f"{folder} is not a report (no manifest.json)", "", "name the folder of index.html"
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
        return [*problems, f"facts.json has version {version}, not {FACTS_VERSION}: write it again"]
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
    """List where two JSON values differ, by dotted place; numbers may differ in the last bits."""
    if isinstance(stated, dict) and isinstance(found, dict):
        keys = sorted(set(stated) | set(found))
        parts = [compare_values(stated.get(k), found.get(k), f"{place}.{k}") for k in keys]
        return [line for part in parts for line in part]
    if isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        pairs = enumerate(zip(stated, found, strict=True))
        parts = [compare_values(a, b, f"{place}[{i}]") for i, (a, b) in pairs]
        return [line for part in parts for line in part]
    if stated == found or _nearly_equal(stated, found):
        return []
    return [f"{place}: the report says {_shortened(stated)}, the sources say {_shortened(found)}"]


def _nearly_equal(a: Any, b: Any) -> bool:
    """Let least squares differ in the last bits between linear algebra libraries."""
    numbers = isinstance(a, float) and isinstance(b, float)
    return numbers and abs(a - b) <= 1e-9 * max(abs(a), abs(b))


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
