"""The corpus of installed packages: which files, which split, and what a difference looks like."""

import hashlib
import importlib.metadata
import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.corpus import local
from ladderlm.corpus.documents import Reader
from ladderlm.corpus.local import (
    collect_package,
    cut_file,
    expected_packages,
    fetch_local,
    package_digest,
    subset_of,
    update_pins,
)
from ladderlm.errors import DataError

PROSE = "A line of prose that is long enough to be worth keeping as text.\n"
CODE = 'def add(a, b):\n    """Give the sum of two numbers."""\n    return a + b\n' * 2


def install(site, name, version, files, unlisted=()):
    """Lay out a package as an installer would: its files and a RECORD that lists them."""
    info = f"{name}-{version}.dist-info"
    files = {f"{info}/METADATA": f"Name: {name}\nVersion: {version}\n\n{PROSE}"} | files
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        raw = content if isinstance(content, bytes) else content.encode()
        (site / path).write_bytes(raw)
    listed = [path for path in files if path not in unlisted]
    (site / info / "RECORD").write_text("".join(f"{path},,\n" for path in [*listed, "gone.py"]))
    return next(d for d in importlib.metadata.distributions(path=[str(site)]) if d.name == name)


@pytest.fixture
def site(tmp_path):
    """A folder of installed packages."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


def collect(distribution, group="Tool code"):
    skipped = Counter()
    return collect_package(distribution, group, skipped), skipped


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("pkg/core.py", "Tool code"),
        ("pkg/_native.pyx", "Tool code"),
        ("pkg/core.pyi", "Type stubs"),
        ("pkg/core.pxd", "Type stubs"),
        ("pkg/readme.md", "Documentation"),
        ("pkg/guide.rst", "Documentation"),
        ("pkg-1.0.dist-info/METADATA", "Documentation"),
        ("pkg-1.0.dist-info/LICENSE", "Licences"),
        ("pkg-1.0.dist-info/licenses/NOTICE.txt", "Licences"),
        ("pkg/COPYING", "Licences"),
        ("pkg/licence.py", "Tool code"),
        ("pkg-1.0.dist-info/RECORD", None),
        ("pkg-1.0.dist-info/entry_points.txt", None),
        ("pkg/_version.py", None),
        ("pkg/__config__.py", None),
        ("pkg/lib.so", None),
        ("pkg/data.json", None),
        ("pkg/__pycache__/core.cpython-311.pyc", None),
    ],
)
def test_files_go_to_named_subsets_by_their_path(name, subset):
    assert subset_of(name, "Tool code") == subset


def test_only_plain_listed_text_files_of_the_package_are_read(site, tmp_path):
    """Tests, links, large files, other encodings and files outside are left out and counted."""
    secret = tmp_path / "secret.txt"
    secret.write_text(PROSE)
    files = {
        "pkg/core.py": CODE,
        "pkg/unlisted.py": CODE + "# 2",
        "pkg/tests/test_core.py": CODE,
        "pkg/test_more.py": CODE,
        "pkg/conftest.py": CODE,
        "pkg/large.py": "# x\n" * (16 << 10) + "#",
        "pkg/full.py": "# x\n" * (16 << 10),
        "pkg/latin.py": b"# caf\xe9 " * 20,
        "pkg/short.py": "x = 1\n",
        "pkg/table.py": "1234567890, " * 20 + "\n",
        "pkg/minified.py": "x" * 2001 + "\n",
        "pkg/nul.py": CODE + "\x00",
        "pkg/guide.md": PROSE * 2,
        "../secret.txt": PROSE,
    }
    distribution = install(site, "pkg", "1.0", files, unlisted=["pkg/unlisted.py"])
    record = site / "pkg-1.0.dist-info/RECORD"
    record.write_text(record.read_text() + "pkg/link.md,,\npkg/folder.md,,\nlinked/in.md,,\n")
    (site / "pkg/link.md").symlink_to(secret)
    (site / "pkg/folder.md").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/in.md").write_text(PROSE)
    (site / "linked").symlink_to(tmp_path / "other")
    found, skipped = collect(distribution)
    assert [file.name for file in found] == [
        "pkg.dist-info/METADATA",
        "pkg/core.py",
        "pkg/full.py",
        "pkg/guide.md",
    ]
    assert skipped == {
        "a test": 3,
        "a link, or outside the package folder": 4,
        "larger than 64 KiB": 1,
        "not UTF-8": 1,
        "shorter than 64 bytes": 1,
        "more than a fifth digits": 1,
        "a line of more than 2000 characters": 1,
        "a control character": 1,
    }
    core = found[1]
    assert (core.package, core.version, core.subset) == ("pkg", "1.0", "Tool code")
    assert core.text == CODE
    assert core.digest == hashlib.sha256(CODE.encode()).hexdigest()


def test_a_digest_is_over_names_and_contents_and_not_over_versions_folders(site, tmp_path):
    first, _ = collect(install(site, "pkg", "1.0", {"pkg/a.py": CODE, "pkg/b.py": CODE + "#"}))
    digest = package_digest(first)
    assert package_digest(reversed(first)) == digest
    for n, files in enumerate(
        ({"pkg/a.py": CODE}, {"pkg/a.py": CODE, "pkg/c.py": CODE + "#"}, {"pkg/a.py": CODE + " "})
    ):
        other = tmp_path / f"other-{n}"
        other.mkdir()
        assert package_digest(collect(install(other, "pkg", "1.0", files))[0]) != digest


@pytest.fixture
def packages(site):
    """Two packages of many small files, and the pins that fit them."""
    code = {f"pkg/m{i}.py": f"# module {i}\n{CODE}" for i in range(30)}
    docs = {f"docs_pkg/d{i}.md": f"Page {i}. {PROSE}" for i in range(40)}
    pins = {}
    for name, version, files in (("pkg", "1.0", code), ("docs-pkg", "2.5", docs)):
        found, _ = collect(install(site, name, version, files))
        digests = ["0" * 64, package_digest(found)]
        pins[name] = {"group": "Tool code", "version": version, "digests": digests}
    return pins


def read_corpus(out):
    """Return split -> records, read as anyone would read a corpus."""
    return {
        name: [(d.subset, d.text) for d in Reader([out / f"{name}.jsonl.zst"])]
        for name in ("train", "val")
    }


BLOCK = '''def part_{n}(first, second):
    """Say something long enough about part {n}: {filler}."""

    return first * {n} + second


'''


def blocks(*numbers, filler="x" * 500):
    return "".join(BLOCK.format(n=n, filler=filler) for n in numbers)


def as_file(text, name="pkg/long.py"):
    return local.LocalFile("pkg", "1.0", name, "Tool code", text, local.text_digest(text))


def test_a_long_source_file_is_cut_between_definitions_into_parts_that_make_the_file_again():
    text = blocks(*range(9))
    parts = cut_file(as_file(text))
    assert len(parts) == 4  # two blocks of 0.6 kB each; the last of the nine stays with its like
    assert "".join(part.text for part in parts) == text
    assert all(part.text.startswith("def part_") for part in parts)
    assert all(len(part.text) >= local.MIN_DOCUMENT_CHARS for part in parts)
    assert len({part.digest for part in parts}) == 4
    assert {(part.name, part.subset) for part in parts} == {("pkg/long.py", "Tool code")}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pkg/short.py", blocks(1)),
        ("pkg/prose.md", blocks(*range(9))),
        ("pkg/indented.py", "class A:\n" + blocks(*range(9)).replace("def", "    def")),
        ("pkg/dense.py", re.sub("\n+", "\n", blocks(*range(9)))),
    ],
)
def test_short_files_prose_and_indented_definitions_stay_whole(name, text):
    file = as_file(text, name)
    assert cut_file(file) == [file]


@given(st.lists(st.sampled_from(["def f():\n", "\n", "    x = 1\n", "# c\n", "é" * 300 + "\n"])))
def test_the_parts_of_any_file_are_the_file(lines):
    text = "".join(lines)
    parts = cut_file(as_file(text))
    assert "".join(part.text for part in parts) == text
    assert len(parts) == 1 or min(len(part.text) for part in parts) >= local.MIN_DOCUMENT_CHARS


def test_parts_of_a_file_share_its_split_and_no_part_stands_in_both(site, tmp_path):
    """All files end in the same functions: a part that val holds is left out of train."""
    same = blocks(100, 101, filler="the same in all files " * 30)
    files = {f"pkg/m{i}.py": blocks(*range(10 * i, 10 * i + 4)) + same for i in range(400)}
    found, _ = collect(install(site, "pkg", "1.0", files))
    pins = {"pkg": {"group": "Tool code", "version": "1.0", "digests": [package_digest(found)]}}
    corpus = fetch_local(tmp_path / "out", pins, [str(site)])
    records = read_corpus(tmp_path / "out")
    texts = {name: [text for _, text in split] for name, split in records.items()}
    of_val = {f.name for f in found if int(f.digest[:8], 16) % local.VAL_ONE_IN_OTHERS == 0}
    assert of_val
    expected = {part.text for f in found if f.name in of_val for part in cut_file(f)}
    assert {text for text in texts["val"] if text.startswith("def")} == expected
    assert not set(texts["val"]) & set(texts["train"])
    everything = [text for split in texts.values() for text in split]
    assert len(everything) == len(set(everything))
    assert set(everything) == {part.text for f in found for part in cut_file(f)}
    n_parts = sum(len(cut_file(f)) for f in found)
    assert corpus["skipped"]["a copy of another document"] == n_parts - len(everything) > 0


def test_a_corpus_holds_each_file_once_in_the_split_of_its_hash(site, packages, tmp_path):
    corpus = fetch_local(tmp_path / "out", packages, [str(site)])
    assert corpus == json.loads((tmp_path / "out/corpus.json").read_text())
    assert {p["status"] for p in corpus["packages"].values()} == {"as pinned"}
    found = read_corpus(tmp_path / "out")
    texts = [text for split in found.values() for _, text in split]
    assert len(texts) == len(set(texts)) == 72  # 30 modules, 40 pages, two METADATA
    for name, records in found.items():
        entry = corpus["splits"][name]
        assert entry["n_documents"] == len(records)
        assert entry["n_bytes"] == sum(len(text.encode()) for _, text in records)
        subsets = Counter(subset for subset, _ in records)
        assert {s: c["n_documents"] for s, c in entry["subsets"].items()} == subsets
        content = (tmp_path / f"out/{entry['file']}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        digests = [hashlib.sha256(text.encode()).hexdigest() for _, text in records]
        assert digests == sorted(digests)  # so the first N are a fair sample
        for (subset, _), digest in zip(records, digests, strict=True):
            one_in = local.VAL_ONE_IN.get(subset, local.VAL_ONE_IN_OTHERS)
            assert (int(digest[:8], 16) % one_in == 0) == (name == "val")
    assert found["val"]
    assert corpus["n_bytes"] == sum(entry["n_bytes"] for entry in corpus["splits"].values())


def test_the_split_of_a_document_does_not_depend_on_what_else_is_installed(
    site, packages, tmp_path
):
    """D13: val stays val when packages come and go."""
    fetch_local(tmp_path / "both", packages, [str(site)])
    fetch_local(tmp_path / "one", {"docs-pkg": packages["docs-pkg"]}, [str(site)])
    both, one = read_corpus(tmp_path / "both"), read_corpus(tmp_path / "one")
    for name in ("train", "val"):
        assert set(one[name]) <= set(both[name])


def test_texts_that_differ_in_case_and_white_space_alone_are_one(site, packages, tmp_path):
    """D13: near copies would stand in train and val."""
    copies = {
        "pkg/m.py": CODE,
        "pkg/n.py": CODE.replace("    ", "\t"),
        "pkg/o.py": CODE.upper() + "\n\n",
        "pkg/p.py": CODE.replace("a, b", "a,b"),  # prepare leaves white space out altogether
    }
    other = tmp_path / "other"
    other.mkdir()
    install(other, "pkg", "1.0", copies)
    corpus = fetch_local(tmp_path / "out", {"pkg": packages["pkg"]}, [str(other)])
    assert corpus["skipped"]["a copy of another file"] == 3
    assert sum(entry["n_documents"] for entry in corpus["splits"].values()) == 2


CHANGES = {
    "missing": ("docs-pkg", lambda site: (site / "docs-pkg-2.5.dist-info/METADATA").unlink()),
    "content differs": (
        "pkg",
        lambda site: (site / "pkg/m3.py").write_text(CODE + "# edited by hand\n"),
    ),
    "other version": (
        "pkg",
        lambda site: (site / "pkg-1.0.dist-info/METADATA").write_text(
            f"Name: pkg\nVersion: 1.1\n\n{PROSE}"
        ),
    ),
}


@pytest.mark.parametrize("status", CHANGES)
def test_a_missing_or_different_package_is_named_and_changes_the_fingerprint(
    site, packages, tmp_path, status
):
    expected = fetch_local(tmp_path / "out", packages, [str(site)])
    name, change = CHANGES[status]
    if status == "missing":
        for path in (site / "docs-pkg-2.5.dist-info").iterdir():
            path.unlink()
        (site / "docs-pkg-2.5.dist-info").rmdir()
    else:
        change(site)
    corpus = fetch_local(tmp_path / "out", packages, [str(site)])
    assert corpus["packages"][name]["status"] == status
    assert corpus["packages"][name]["expected_version"] == packages[name]["version"]
    (other,) = set(packages) - {name}
    assert corpus["packages"][other]["status"] == "as pinned"
    assert corpus["fingerprint"] != expected["fingerprint"]
    assert json.loads((tmp_path / "out/corpus.json").read_text()) == corpus


def test_fetching_again_changes_nothing_and_mends_what_was_spoilt(site, packages, tmp_path):
    out = tmp_path / "out"
    first = fetch_local(out, packages, [str(site)])
    train = out / "train.jsonl.zst"
    before = train.read_bytes(), train.stat().st_mtime_ns
    assert fetch_local(out, packages, [str(site)]) == first
    assert (train.read_bytes(), train.stat().st_mtime_ns) == before
    for spoilt in (before[0][:-5], b"", None):
        train.unlink()
        if spoilt is not None:
            train.write_bytes(spoilt)
        assert fetch_local(out, packages, [str(site)]) == first
        assert train.read_bytes() == before[0]
    (out / "corpus.json").unlink()
    assert fetch_local(out, packages, [str(site)]) == first


def test_a_package_is_found_by_any_spelling_of_its_name(site, packages, tmp_path):
    pins = {"Docs_Pkg": packages["docs-pkg"]}
    corpus = fetch_local(tmp_path / "out", pins, [str(site)])
    assert corpus["packages"]["Docs_Pkg"]["status"] == "as pinned"


def test_no_package_at_all_is_an_error_that_says_what_was_looked_for(packages, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="none of the packages") as caught:
        fetch_local(tmp_path / "out", packages, [str(tmp_path / "empty")])
    assert "pkg, docs-pkg" in caught.value.what
    assert not (tmp_path / "out/corpus.json").exists()


@given(st.text(max_size=30))
def test_any_path_has_a_subset_or_none(name):
    assert subset_of(name, "g") in {"g", "Documentation", "Licences", "Type stubs", None}


def test_the_committed_list_pins_versions_and_digests():
    packages = expected_packages()
    assert len(packages) >= 20
    for name, pin in packages.items():
        assert re.fullmatch(r"\d+(\.\d+)+(\.?(post|rc|a|b|dev)\d+)?", pin["version"]), name
        assert pin["digests"], name
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in pin["digests"]), name
        assert pin["group"].strip(), name
    assert len(set(map(local._normal_name, packages))) == len(packages)
    assert len({pin["group"] for pin in packages.values()}) >= 3


def test_pins_are_brought_up_to_what_is_installed(tmp_path):
    """Digests of other builds of the same version are kept; those of other versions are not."""
    distribution = importlib.metadata.distribution("iniconfig")
    path = tmp_path / "pins.json"
    for version, kept in ((distribution.version, ["0" * 64]), ("0.0.1", [])):
        pin = {"group": "g", "version": version, "digests": ["0" * 64]}
        path.write_text(json.dumps({"packages": {"iniconfig": pin}}))
        update_pins(path)
        found = json.loads(path.read_text())["packages"]["iniconfig"]
        own = package_digest(collect_package(distribution, "g", Counter()))
        assert found == {
            "group": "g",
            "version": distribution.version,
            "digests": sorted([own, *kept]),
        }
