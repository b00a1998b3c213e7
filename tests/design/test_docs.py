"""The documents: every link in them leads somewhere, and the builder notices when one does not."""

import re
from pathlib import Path
from typing import Any

import pytest

from design.sources import ROOT, load_page
from ladderlm.cli.main import GROUPS


@pytest.fixture
def build() -> Any:
    """Load docs/build.py."""
    return load_page("build")


def test_every_link_of_the_documents_leads_somewhere(build: Any) -> None:
    pages = {page: build.parse(page) for page in build.find_pages()}
    assert ROOT / "README.md" in pages
    assert build.find_faults(pages) == []


def test_a_link_to_nowhere_is_found_and_a_good_one_is_rendered(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/plot.svg").write_text("<svg/>")
    guide = tmp_path / "docs/guide.md"
    guide.write_text("# The guide\n\n[home](../README.md) ![plot](plot.svg)\n\n## More, soon\n")
    readme = tmp_path / "README.md"
    readme.write_text(
        "# Top\n\n[a](docs/gone.md) [b](docs/guide.md#gone) [c](https://example.org)\n"
    )
    assert build.main([]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "README.md: docs/gone.md leads to no file",
        "README.md: docs/guide.md#gone names no heading",
    ]

    readme.write_text("# Top\n\n[b](docs/guide.md#more-soon)\n")
    assert build.main([]) == 0
    assert 'href="docs/guide.html#more-soon"' in (tmp_path / "site/index.html").read_text()
    shown = (tmp_path / "site/docs/guide.html").read_text()
    assert 'href="../index.html"' in shown
    assert 'id="more-soon"' in shown
    assert (tmp_path / "site/docs/plot.svg").exists()


def test_the_pages_of_options_and_commands_are_what_their_sources_say(build: Any) -> None:
    outdated = [page.name for page in build.find_outdated()]
    assert not outdated, "run python docs/build.py"
    options = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert "`optim.learning_rate`" in options
    commands = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert "`ladderlm tokenizer import" in commands
    assert "`--near-duplicates`" in commands


def test_a_generated_page_that_is_out_of_date_is_refused_and_then_written(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/options.py").write_text("def page(): return '# New\\n'\n")
    (tmp_path / "docs/options.md").write_text("# Old\n")
    assert build.main(["--check"]) == 1
    assert "options.md is out of date: run python docs/build.py" in capsys.readouterr().err
    assert (tmp_path / "docs/options.md").read_text() == "# Old\n"
    assert build.main([]) == 0
    assert (tmp_path / "docs/options.md").read_text() == "# New\n"
    assert build.main(["--check"]) == 0


def test_the_readme_names_every_command_with_its_verbs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`ladderlm .*?) \| ", readme, re.MULTILINE)
    words = set(re.findall(r"[a-z]+", " ".join(rows)))
    for commands in GROUPS.values():
        for name, (_, _, verbs) in commands.items():
            assert {name, *verbs} <= words
