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
        DataError: a source does not exist, is not a plain file, or a folder has no corpus file.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = [p for p in source.rglob("*") if p.name.endswith(_SUFFIXES) and p.is_file()]
            if not found:
                raise DataError(
                    f"folder {source} holds no corpus file ({', '.join(_SUFFIXES)})",
                    fix="name the files, or another folder",
                )
            files += sorted(found)
        elif source.is_file() or str(source) == "-":
            files.append(source)
        elif source.exists():
            raise DataError(
                f"source {source} is a pipe or a device, not a file",
                "sources are read several times: to hash them, and to share them between workers",
                "name a file, or pipe the text into standard input and name -",
            )
        else:
            raise DataError(f"source {source} does not exist", fix="check the path")
    return files


def files_by_split(folder: Path) -> dict[str, list[Path]]:
    """Return the corpus files, or those in folders, that are named train, val or test."""
    plan: dict[str, list[Path]] = {}
    for file in expand_sources([folder]):
        name = file.relative_to(folder).parts[0].split(".")[0]
        plan.setdefault(name, []).append(file)
    return {name: plan[name] for name in ("train", "val", "test") if name in plan}
