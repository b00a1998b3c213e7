"""The documents: every link in them leads somewhere, and the builder notices when one does not."""

from pathlib import Path
from typing import Any

import pytest

from design.sources import ROOT, load_page


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


def test_the_page_of_options_is_made_from_the_dataclasses() -> None:
    options = load_page("options")
    shown = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert shown == options.page(), "run python docs/options.py"
    assert "`optim.learning_rate`" in shown
