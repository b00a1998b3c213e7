"""The page: whole, alone, the same each time, and harmless whatever it is made of."""

import base64
import re
import shutil
import socket
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from browser import open_offline
from ladderlm.report.facts import ReportFacts, gather
from ladderlm.report.render import render_html, render_markdown, write_report
from ladderlm.report.sections import RUBRIC
from ladderlm.run.execute import execute
from ladderlm.text import visible
from reference.hostile import HOSTILE

HARMLESS_TAGS = set(
    "html head meta title link style body header h1 h2 h3 p a code nav ol ul li main section div"
    " b span table thead tbody tr th td details summary pre figure img figcaption br wbr"
    " footer".split()
)


class Page(HTMLParser):
    """What a browser would make of a page: tags, attributes, text by section."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.sections, self._section, self._style = {}, None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self._style = tag == "style"
        if tag == "section":
            self._section = dict(attributes)["id"]
            self.sections[self._section] = ""

    def handle_endtag(self, tag):
        self._style = False
        if tag == "section":
            self._section = None

    def handle_data(self, data):
        if not self._style:
            self.text += data
            if self._section:
                self.sections[self._section] += data

    def urls(self):
        """Return all addresses."""
        names = ("href", "src", "srcset", "action", "data", "poster", "background", "xlink:href")
        return [(t, n, v) for t, n, v in self.attributes if n in names]


@pytest.fixture(scope="session")
def hostile_report(hostile):
    return write_report(hostile.study.parent / "report", [], [hostile.study]).parent


@pytest.fixture(params=["report", "hostile_report"])
def any_report(request):
    return request.getfixturevalue(request.param)


def page_of(folder):
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_every_section_of_the_rubric_stands_there_with_content(any_report):
    page = page_of(any_report)
    assert list(page.sections) == [anchor for anchor, _ in RUBRIC]
    for anchor, title in RUBRIC:
        words = page.sections[anchor].split()
        assert " ".join(words).startswith(title)
        assert len(words) > len(title.split()) + 8, anchor
        assert f'href="#{anchor}"' in (any_report / "index.html").read_text(encoding="utf-8")
    markdown = (any_report / "report.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.*)$", markdown, flags=re.MULTILINE)
    assert parts[1::2] == [title for _, title in RUBRIC]
    assert all(part.strip() for part in parts[2::2])


def test_sections_hold_what_they_are_named_after(report, sources):
    """Numbers of the runs themselves, not only words about them."""
    facts = gather([], [sources.study], report)
    sections = {name: " ".join(text.split()) for name, text in page_of(report).sections.items()}
    best = facts.best_run
    assert f"{best.bits_per_byte:.3f}" in sections["summary"]
    assert "Code" in sections["data"]
    assert "Prose" in sections["data"]
    assert "Packed rows" in sections["batches"]
    assert "Padded rows" in sections["batches"]
    assert "<BOS>" in sections["batches"]
    for run in facts.runs:
        assert run.run_id in sections["experiments"]
        assert f"{run.last_bits_per_byte:.3f}" in sections["experiments"]
    for name, rate in facts.trivial.bits_per_byte.items():
        assert f"{name}{rate:.3f}" in sections["evaluation"]
    assert "def " in sections["samples"]
    assert "Is SwiGLU better than GELU?" in sections["ablation"]
    assert "pooled" in sections["ablation"]
    assert "Verdict by rule: INCONCLUSIVE" in sections["discussion"]
    assert "ladderlm study run" in sections["reproduce"]
    assert best.machine.versions["torch"] in sections["software"]


def test_the_page_loads_nothing_and_runs_nothing(any_report):
    """P01: one file, a policy that forbids the rest, no script and no address to load from."""
    page = page_of(any_report)
    policy = [v for t, n, v in page.attributes if t == "meta" and n == "content" and "src" in v]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert set(page.tags) <= HARMLESS_TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for tag, name, value in page.urls():
        if name == "href" and tag == "a":
            assert value.startswith(("#", "../", "./"))
        else:
            assert value.startswith("data:"), (tag, name)
    text = (any_report / "index.html").read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_every_figure_is_a_whole_picture_that_loads_nothing(any_report):
    """P01: a name with an escape character would break the XML."""
    pictures = [v for t, n, v in page_of(any_report).attributes if (t, n) == ("img", "src")]
    assert len(pictures) in (4, 5)  # curves, loss against three axes; a forecast if made
    for picture in pictures:
        root = ElementTree.fromstring(base64.b64decode(picture.split(",", 1)[1]))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        names = {element.tag.split("}")[1] for element in root.iter() if "}" in element.tag}
        assert not names & {"script", "image", "foreignObject", "a", "iframe"}
        for element in root.iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith("#")


def test_hostile_text_is_shown_as_text(hostile_report):
    """P01: each text stands on the page as it was written, control characters spelt out."""
    page = page_of(hostile_report)
    for text in HOSTILE.values():
        assert visible(text) in page.text
    for place in ("ablation", "data", "samples", "experiments", "evaluation"):
        assert HOSTILE["image"] in page.sections[place], place
    assert str(7 * 191) not in page.text
    for name in ("index.html", "report.md"):
        raw = (hostile_report / name).read_text(encoding="utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", raw), name


def rendered(markdown):
    """Read Markdown as the most permissive reader would: raw HTML on, no address refused."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    reader.validateLink = lambda url: True
    return Page(reader.render(markdown))


def test_the_markdown_is_as_harmless_as_the_page(any_report):
    """P01: hostile text opens no tag, no link, no picture and no heading."""
    page = rendered((any_report / "report.md").read_text(encoding="utf-8"))
    assert set(page.tags) <= HARMLESS_TAGS | {"strong", "em"}
    assert page.tags.count("h1") == 1
    assert page.tags.count("h2") == len(RUBRIC)
    for tag, _, value in page.urls():
        assert value.startswith("figures/" if tag == "img" else ("../", "./"))
        assert "javascript" not in value
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_hostile_text_is_shown_as_text_in_markdown(hostile_report):
    """P01: what a reader sees is what was written."""
    page = rendered((hostile_report / "report.md").read_text(encoding="utf-8"))
    seen = " ".join(page.text.split())
    for text in HOSTILE.values():
        assert " ".join(visible(text).split()) in seen


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.long
def test_writing_twice_gives_the_same_bytes(sources, report):
    before = files_of(report)
    assert {"index.html", "report.md", "facts.json", "manifest.json"} < set(before)
    write_report(report, [], [sources.study])
    assert files_of(report) == before


def test_pages_are_rendered_from_the_facts_alone(report, sources):
    facts = gather([], [sources.study], report)
    svgs = {path.stem: path.read_text("utf-8") for path in (report / "figures").glob("*.svg")}
    assert render_html(facts, svgs) == (report / "index.html").read_text("utf-8")
    assert render_markdown(facts, svgs) == (report / "report.md").read_text("utf-8")


def test_a_multiplier_beyond_the_ladder_is_shown_as_a_bound(report, sources):
    facts = gather([], [sources.study], report).to_json()
    rung = facts["studies"][0]["fits"]["variants"][0]["comparison"]["rungs"][0]
    rung["censored"] = "> 1.78"
    svgs = {path.stem: path.read_text("utf-8") for path in (report / "figures").glob("*.svg")}
    assert '<td class="n">&gt; 1.78</td>' in render_html(ReportFacts.from_json(facts), svgs)


def test_a_single_run_has_a_report_without_a_study(sources, tmp_path):
    page = page_of(write_report(tmp_path / "report", [sources.run], []).parent)
    assert [anchor for anchor, _ in RUBRIC] == list(page.sections)
    assert "No study is part of this report" in page.sections["ablation"]
    assert "No study is part of this report" in page.sections["discussion"]


SECRET = "sk-5ecret-70ken"
HOST = "alices-laptop-7f3a"


def test_nothing_of_the_user_stands_in_a_report(tiny_config, tmp_path, monkeypatch):
    """P06: no variables of the environment, no home, no host name."""
    home = tmp_path / "home" / "alice-7f3a"
    monkeypatch.setenv("HOME", str(home))
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "LADDERLM_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("HOSTNAME", HOST)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    run, failed = home / "trained/one", home / "trained/two"
    execute(tiny_config(out=str(run), train__n_steps=4))
    shutil.copytree(run, failed)
    summary = (failed / "summary.json").read_text().replace('"finished"', '"failed"', 1)
    reason = f'"reason": "cannot append to {failed}/metrics.jsonl", '
    (failed / "summary.json").write_text(summary.replace("{", "{" + reason, 1))
    folder = write_report(home / "report", [run, failed], []).parent
    assert "cannot append to ~/trained/two" in page_of(folder).sections["experiments"]
    for name, content in files_of(folder).items():
        for private in (SECRET, HOST, "alice-7f3a", str(tmp_path)):
            assert private.encode() not in content, name


def test_a_page_opens_in_a_browser_without_a_complaint(hostile_report, tmp_path):
    """P01: offline, with all its sections; a refused load or script would be a console line."""
    dom = open_offline(hostile_report / "index.html", tmp_path / "profile")
    assert list(Page(dom).sections) == [anchor for anchor, _ in RUBRIC]
    assert Page(dom).text.split() == page_of(hostile_report).text.split()
