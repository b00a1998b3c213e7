"""Which files make up a corpus.

Owns the endings that are read, the walk through folders, and the names of splits.
"""

from collections.abc import Iterable
from pathlib import Path

from ladderlm.errors import DataError

__all__ = ["expand_sources", "files_by_split"]

_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".txt", ".txt.zst", ".txt.gz")


def expand_sources(sources: Iterable[str | Path]) -> list[Path]:
    """Replace folders by the corpus files in them, sorted by name; "-" is standard input.

    Raises:
        DataError: a source does not exist, is not a plain file, or a folder holds no corpus file.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = sorted(
                p for p in source.rglob("*") if p.is_file() and p.name.endswith(_SUFFIXES)
            )
            if not inside:
                raise DataError(
                    f"folder {source} holds no corpus file",
                    f"files ending in {', '.join(_SUFFIXES)} are read",
                    "name the files, or another folder",
                )
            files += inside
        elif source.is_file() or str(source) == "-":
            files.append(source)
        elif source.exists():
            raise DataError(
                f"source {source} is a pipe or a device, not a file",
                "it is read more than once: to hash it, and to share it between workers",
                "name a file, or pipe the text into standard input and name -",
            )
        else:
            raise DataError(f"source {source} does not exist", "", "check the path")
    return files


def files_by_split(folder: Path) -> dict[str, list[Path]]:
    """Find the corpus files, or folders of them, that are named train, val or test."""
    plan: dict[str, list[Path]] = {}
    for file in expand_sources([folder]):
        name = file.relative_to(folder).parts[0].split(".")[0]
        plan.setdefault(name, []).append(file)
    return {name: plan[name] for name in ("train", "val", "test") if name in plan}
