"""Make the generated pages, render all pages to site/, and check every relative link.

    python docs/build.py [--check]       --check writes nothing, and fails if a page is out of date

Pages are README, CONTRIBUTING, CHANGELOG and docs/; options.md and commands.md are generated.
A link must lead to a file of the checkout, and one with `#name` to a heading of that page. The site
keeps the folders of the checkout: `.md` becomes `.html`, other files that are linked are copied.
"""
# ruff: noqa: T201

import html
import itertools
import re
import runpy
import shutil
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
GENERATORS = ("options.py", "commands.py")
STYLE = """
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 17px/1.55 Georgia, serif;
  color: #1f2937; background: #fff }
h1, h2, h3, nav, table { font-family: system-ui, sans-serif; line-height: 1.25 }
nav { font-size: 14px } nav a { margin-right: 1em }
pre { background: #f3f4f6; padding: .8em 1em; overflow-x: auto; font-size: 14px }
code { font-size: .88em } img { max-width: 100% }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto }
td, th { border-bottom: 1px solid #e5e7eb; padding: .3em .8em .3em 0; text-align: left }
a { color: #0057a8 }
@media (prefers-color-scheme: dark) { body { background: #111827; color: #e5e7eb }
  pre { background: #1f2937 } a { color: #7cc4ff } td, th { border-color: #374151 } }
"""


def find_outdated() -> dict[Path, str]:
    """Return the generated pages that differ from what they are made from, with their new text."""
    places = [ROOT / "docs" / name for name in GENERATORS if (ROOT / "docs" / name).is_file()]
    texts = {place.with_suffix(".md"): runpy.run_path(str(place))["page"]() for place in places}
    return {
        page: text
        for page, text in texts.items()
        if not page.is_file() or page.read_text(encoding="utf-8") != text
    }


def find_pages() -> list[Path]:
    """Return every page, README first."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [page for page in top if page.exists()] + sorted((ROOT / "docs").rglob("*.md"))


def anchor_of(heading: str) -> str:
    """Return the name of a heading as forges make it: lower case, hyphens, no punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def walk(tokens: list[Token]) -> Iterator[Token]:
    """Return all tokens, those inside lines too."""
    for token in tokens:
        yield token
        yield from walk(token.children or [])


def parse(page: Path) -> list[Token]:
    """Return the tokens of a page, its headings named."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", anchor_of(inline.content))
    return tokens


def place_of(path: Path) -> Path:
    """Return where a file of the checkout lies in the site, relative to it."""
    place = path.relative_to(ROOT)
    if place.name == "README.md":
        return place.with_name("index.html")
    return place.with_suffix(".html") if place.suffix == ".md" else place


def resolve_link(page: Path, link: str) -> tuple[Path, str] | None:
    """Return file and anchor of a relative link; None for one that leaves the checkout's files."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    target = (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
    return target, parts.fragment


def find_faults(pages: dict[Path, list[Token]]) -> list[str]:
    """Return a line for every link that leads nowhere."""
    anchors = {
        page: {token.attrGet("id") for token in tokens if token.type == "heading_open"}
        for page, tokens in pages.items()
    }
    faults = []
    for page, tokens in pages.items():
        for token in walk(tokens):
            link = token.attrGet("href") or token.attrGet("src")
            found = resolve_link(page, str(link)) if link else None
            if found is None:
                continue
            target, anchor = found
            place = f"{page.relative_to(ROOT)}: {link}"
            if not target.is_relative_to(ROOT) or not target.exists():
                faults.append(f"{place} leads to no file")
            elif anchor and target in anchors and anchor not in anchors[target]:
                faults.append(f"{place} names no heading")
    return faults


def write_site(pages: dict[Path, list[Token]], site: Path) -> None:
    """Write every page and copy every other file that one links to."""
    renderer = MarkdownIt("commonmark").enable("table")
    for page, tokens in pages.items():
        up = "../" * len(page.relative_to(ROOT).parent.parts)
        for token in walk(tokens):
            for name in ("href", "src"):
                found = resolve_link(page, str(token.attrGet(name) or "https:"))
                if found is None:
                    continue
                target, anchor = found
                place = place_of(target)
                if target.is_file() and target not in pages:
                    (site / place).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(target, site / place)
                if target in pages and target != page:
                    token.attrSet(name, f"{up}{place}" + (f"#{anchor}" if anchor else ""))
        body = renderer.renderer.render(tokens, renderer.options, {})
        links = [f'<a href="{up}{place_of(other)}">{title_of(pages[other])}</a>' for other in pages]
        out = site / place_of(page)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title_of(tokens)}'
            f'</title><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
            f"<nav>{' '.join(links)}</nav><main>{body}</main></html>\n",
            encoding="utf-8",
        )


def title_of(tokens: list[Token]) -> str:
    """Return the first heading, as text for HTML."""
    headings = [t for o, t in itertools.pairwise(tokens) if o.type == "heading_open"]
    return html.escape(headings[0].content if headings else "ladderlm")


def main(words: list[str]) -> int:
    """Check, then write; return the exit code."""
    for page, text in find_outdated().items():
        if "--check" in words:
            print(f"{page.name} is out of date: run python docs/build.py", file=sys.stderr)
            return 1
        page.write_text(text, encoding="utf-8")
    pages = {page: parse(page) for page in find_pages()}
    faults = find_faults(pages)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        return 1
    if "--check" not in words:
        site = ROOT / "site"
        shutil.rmtree(site, ignore_errors=True)
        write_site(pages, site)
        print(f"{len(pages)} pages in {site}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
