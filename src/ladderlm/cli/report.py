"""`ladderlm report`: write a page about runs and studies, or verify one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ladderlm.cli.options import parse
from ladderlm.errors import ConfigError
from ladderlm.report.sections import AxisOptions

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class ReportOptions(AxisOptions):
    """Write one self-contained page about runs and studies.

    `ladderlm report verify DIR` checks such a page.
    """

    folders: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|STUDY...")]
    """Folders of runs and studies, in any order."""
    out: str = "report"
    """Folder of the report to write."""


@dataclass(frozen=True)
class ReportVerifyOptions:
    """Check every number and file of a report against its runs."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the report."""


def run(argv: list[str]) -> int:
    """Write or verify a report."""
    if argv[:1] == ["verify"]:
        return _verify(Path(parse(ReportVerifyOptions, argv[1:], "report verify").folder))
    options = parse(ReportOptions, argv, "report")
    if not options.folders:
        raise ConfigError("no RUN or STUDY is named", fix="name the folder of one")
    found: dict[str, list[Path]] = {"study.json": [], "config.json": []}
    for folder in map(Path, options.folders):
        file = next((name for name in found if (folder / name).is_file()), None)
        if file is None:
            raise ConfigError(
                f"{folder} is neither a run (config.json) nor a study (study.json)",
                fix="check the path",
            )
        found[file].append(folder)
    from ladderlm.report.render import write_report

    print(write_report(Path(options.out), found["config.json"], found["study.json"], options.x))
    return 0


def _verify(folder: Path) -> int:
    from ladderlm.report.verify import verify_report

    problems = verify_report(folder)
    for problem in problems[:50]:
        print(problem)
    if len(problems) > 50:
        print(f"... and {len(problems) - 50} more")
    if not problems:
        print(f"{folder}: every number and file holds")
    return 1 if problems else 0
