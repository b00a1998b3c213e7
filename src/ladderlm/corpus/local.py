"""A corpus without a download: the text files of the pinned Python packages on this machine.

Owns the choice of packages and files, the check against the committed digests, and the writing of
`train.jsonl.zst`, `val.jsonl.zst` and `corpus.json`. Nothing is redistributed.
"""

import hashlib
import importlib.metadata
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ladderlm.config import content_hash
from ladderlm.corpus.decompress import zstd
from ladderlm.errors import DataError
from ladderlm.files import FolderLock, publish_json, publish_stream, read_json, sha256_file, to_json

__all__ = [
    "MIN_CORPUS_BYTES",
    "LocalFile",
    "collect_package",
    "cut_file",
    "expected_packages",
    "fetch_local",
    "subset_of",
]

MAX_FILE_BYTES = 64 << 10
MIN_CORPUS_BYTES = 60_000_000
# One file in so many goes to val, chosen by its hash; small subsets give more.
VAL_ONE_IN = {"Documentation": 8, "Licences": 12, "Type stubs": 40}
VAL_ONE_IN_OTHERS = 200
MIN_DOCUMENT_CHARS = 1024  # of each part of a source file that is cut
_ZSTD_LEVEL = 3
_PINS = Path(__file__).with_name("local_packages.json")
_CODE_KINDS = (".py", ".pyi", ".pxd", ".pyx")
_KINDS = (*_CODE_KINDS, ".rst", ".md", ".txt")
# Where a source file may be cut: after a blank line, before an unindented definition or comment.
_CUT = re.compile(r"\n\n(?=(?:async def |def |class |@|#))")
# Files that installers or builds write, whose content differs between machines.
_MADE_HERE = re.compile(r"(^|/)(__config__|_?version|version_info|_build_config|top_level)\.\w+$")
_TESTS = re.compile(r"(^|/)(tests?|testing|_test\w*)/|(^|/)(test_\w+|\w+_test|conftest)\.pyi?$")
_LICENCE = re.compile(r"(^|/)(licen[cs]es?|copying|notice|authors)([^/]*$|/)", re.IGNORECASE)


@dataclass(frozen=True)
class LocalFile:
    """A document: one chosen text file of a package, or a part of it."""

    package: str
    version: str
    name: str
    subset: str
    text: str
    digest: str


def subset_of(name: str, group: str) -> str | None:
    """Return the subset of a file by its path; None for files that are not part of the corpus.

    Args:
        name: path in the folder of installed packages.
        group: subset of the package's own code, for example "Mathematics code".
    """
    if _LICENCE.search(name) and not name.endswith((".py", ".pyi")):
        return "Licences"
    if name.endswith(".dist-info/METADATA"):
        return "Documentation"
    suffix = Path(name).suffix
    if suffix not in _KINDS or _MADE_HERE.search(name):
        return None
    if suffix in (".rst", ".md", ".txt"):
        return None if ".dist-info/" in name else "Documentation"
    return "Type stubs" if suffix in (".pyi", ".pxd") else group


def _read_chosen(path: Path, root: Path, entry: str) -> tuple[str, str | None]:
    """Return the text of a file, and the reason to leave it out, or None."""
    if _TESTS.search(entry):
        return "", "a test"
    if path.is_symlink() or not path.resolve().is_relative_to(root) or not path.is_file():
        return "", "a link, or outside the package folder"
    if path.stat().st_size > MAX_FILE_BYTES:
        return "", f"larger than {MAX_FILE_BYTES >> 10} KiB"
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return "", "not UTF-8"
    if len(raw) < 64:
        return "", "shorter than 64 bytes"
    if max(map(len, text.split("\n"))) > 2000:
        return "", "a line of more than 2000 characters"
    if sum(char.isdigit() for char in text) > 0.2 * len(text):
        return "", "more than a fifth digits"
    return text, "a control character" if "\x00" in text else None


def collect_package(
    distribution: importlib.metadata.Distribution, group: str, skipped: Counter[str]
) -> list[LocalFile]:
    """Read the text files of one installed package, in the order of their names.

    Only plain files that the package's record lists are read; links out of it are not followed.
    """
    name, version = distribution.metadata["Name"], distribution.version.split("+")[0]
    root = Path(str(distribution.locate_file(""))).resolve()
    files = []
    for entry in sorted(set(map(str, distribution.files or []))):
        subset = subset_of(entry, group)
        if subset is None or not os.path.lexists(root / entry):
            continue  # some package finders do not list files that are missing
        text, reason = _read_chosen(root / entry, root, entry)
        if reason:
            skipped[reason] += 1
        else:
            label = re.sub(r"^[^/]*\.dist-info/", f"{name}.dist-info/", entry)
            files.append(LocalFile(name, version, label, subset, text, text_digest(text)))
    return files


def package_digest(files: Iterable[LocalFile]) -> str:
    """Return the hash of the names and contents of a package's chosen files."""
    return content_hash(sorted((file.name, file.digest) for file in files))


def expected_packages() -> dict[str, Any]:
    """Return the committed list: package -> version and digests (one for each known build)."""
    packages: dict[str, Any] = read_json(_PINS)["packages"]
    return packages


def _collect_all(
    expected: dict[str, Any], search_path: list[str]
) -> tuple[list[LocalFile], dict[str, Any], Counter[str]]:
    """Return the files of every listed package, its comparison with the list, and skip counts."""
    installed: dict[str, importlib.metadata.Distribution] = {}
    for found in importlib.metadata.distributions(path=search_path):
        if "Name" in found.metadata:
            installed.setdefault(_normal_name(found.metadata["Name"]), found)
    files: list[LocalFile] = []
    packages: dict[str, Any] = {}
    skipped: Counter[str] = Counter()
    for name, pin in expected.items():
        distribution = installed.get(_normal_name(name))
        if distribution is None:
            packages[name] = {"status": "missing", "expected_version": pin["version"]}
            continue
        own = collect_package(distribution, pin["group"], skipped)
        digest = package_digest(own)
        version = distribution.version.split("+")[0]
        status = "as pinned" if digest in pin["digests"] else "content differs"
        packages[name] = {
            "status": status if version == pin["version"] else "other version",
            "version": version,
            "expected_version": pin["version"],
            "digest": digest,
            "n_files": len(own),
        }
        files += own
    return files, packages, skipped


def _normal_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _without_copies(
    texts: list[LocalFile], seen: set[bytes], skipped: Counter[str], what: str
) -> list[LocalFile]:
    """Return the first of the texts that are equal except for case and white space.

    Args:
        seen: keys of the texts that were kept before; the new ones are added.
        what: reason under which the others are counted in `skipped`.
    """
    kept = []
    for file in texts:
        key = hashlib.sha256("".join(file.text.lower().split()).encode()).digest()
        if key in seen:
            skipped[what] += 1
        else:
            seen.add(key)
            kept.append(file)
    return kept


def fetch_local(
    out: Path, expected: dict[str, Any] | None = None, search_path: list[str] | None = None
) -> dict[str, Any]:
    """Write the corpus of this machine's packages; return the content of `corpus.json`.

    Documents are files, or parts of them (`cut_file`). The hash of a file decides its split, so
    parts of one file stay together and the split depends only on the texts. Documents of a split
    are ordered by their own hash, so the first N are a fair sample. A package that is missing or
    differs is listed under `packages`, not refused; the fingerprint distinguishes corpora.

    Args:
        out: folder to write to.
        expected: packages to look for; None: the committed list.
        search_path: where packages are installed; None: this interpreter's path.

    Raises:
        DataError: none of the packages is installed.
    """
    with FolderLock(out):
        listed = expected_packages() if expected is None else expected
        files, packages, skipped = _collect_all(listed, search_path or sys.path)
        files = _without_copies(files, set(), skipped, "a copy of another file")
        if not files:
            raise DataError(
                "none of the packages that make up the local corpus is installed: "
                f"{', '.join(listed)}",
                fix="install ladderlm with its dependencies (make setup), or name another corpus",
            )
        splits = _split_files(files, skipped)
        fingerprint = content_hash(
            [[d.package, d.name, d.digest, name] for name, own in splits.items() for d in own]
        )
        known = out / "corpus.json"
        if known.exists():
            corpus: dict[str, Any] = read_json(known)
            files_are_good = corpus.get("fingerprint") == fingerprint and all(
                (out / entry["file"]).is_file()
                and sha256_file(out / entry["file"]) == entry["sha256"]
                for entry in corpus["splits"].values()
            )
            if files_are_good:
                return corpus
        written = {name: _write_split(out / f"{name}.jsonl.zst", splits[name]) for name in splits}
        corpus = {
            "kind": "ladderlm-corpus",
            "format_version": 1,
            "fingerprint": fingerprint,
            "n_bytes": sum(entry["n_bytes"] for entry in written.values()),
            "packages": packages,
            "splits": written,
            "skipped": dict(sorted(skipped.items())),
        }
        publish_json(known, corpus)
    return corpus


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def cut_file(file: LocalFile) -> list[LocalFile]:
    """Return the documents of a file: source code is cut between unindented definitions.

    Prompts such as `def ` are beginnings of documents, and a model of short context rarely sees
    the beginning of a file. Each part has at least `MIN_DOCUMENT_CHARS` characters; joined they
    are the file. Other kinds of files stay whole.
    """
    if not file.name.endswith(_CODE_KINDS):
        return [file]
    parts, start = [], 0
    for cut in _CUT.finditer(file.text):
        at = cut.end()
        if min(at - start, len(file.text) - at) >= MIN_DOCUMENT_CHARS:
            parts.append(file.text[start:at])
            start = at
    parts.append(file.text[start:])
    cut_up = [replace(file, text=part, digest=text_digest(part)) for part in parts]
    return cut_up if len(parts) > 1 else [file]


def _split_files(files: list[LocalFile], skipped: Counter[str]) -> dict[str, list[LocalFile]]:
    """Return the documents of each split; one that is in both is left out of train."""
    whole: dict[str, list[LocalFile]] = {"val": [], "train": []}
    for file in files:
        one_in = VAL_ONE_IN.get(file.subset, VAL_ONE_IN_OTHERS)
        whole["train" if int(file.digest[:8], 16) % one_in else "val"].append(file)
    seen: set[bytes] = set()
    splits: dict[str, list[LocalFile]] = {}
    for name, own in whole.items():
        documents = [document for file in own for document in cut_file(file)]
        kept = _without_copies(documents, seen, skipped, "a copy of another document")
        splits[name] = sorted(kept, key=lambda document: document.digest)
    return {"train": splits["train"], "val": splits["val"]}


def _write_split(path: Path, documents: list[LocalFile]) -> dict[str, Any]:
    subsets: dict[str, dict[str, int]] = {}
    with publish_stream(path) as raw, zstd.open(raw, "wb", level=_ZSTD_LEVEL) as stream:
        for file in documents:
            meta = {"pile_set_name": file.subset, "package": file.package, "file": file.name}
            record = {"text": file.text, "meta": meta | {"version": file.version}}
            stream.write((to_json(record, indent=None) + "\n").encode())
            counts = subsets.setdefault(file.subset, {"n_documents": 0, "n_bytes": 0})
            counts["n_documents"] += 1
            counts["n_bytes"] += len(file.text.encode())
    return {
        "file": path.name,
        "sha256": sha256_file(path),
        "n_documents": len(documents),
        "n_bytes": sum(counts["n_bytes"] for counts in subsets.values()),
        "subsets": dict(sorted(subsets.items())),
    }


def update_pins(path: Path) -> None:
    """Update the committed list to the installed packages; keep the digests of other builds."""
    listed = read_json(path)
    for name, pin in listed["packages"].items():
        distribution = importlib.metadata.distribution(name)
        digest = package_digest(collect_package(distribution, pin["group"], Counter()))
        version = distribution.version.split("+")[0]
        others = pin.get("digests", []) if pin.get("version") == version else []
        pin |= {"version": version, "digests": sorted({digest, *others})}
    publish_json(path, listed)


if __name__ == "__main__":
    update_pins(_PINS)
