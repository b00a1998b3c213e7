"""`ladderlm report`: runs and studies to one page, and back to check it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ladderlm.cli.options import parse
from ladderlm.errors import ConfigError
from ladderlm.report.sections import Axis

__all__ = ["run"]


@dataclass(frozen=True)
class ReportOptions:
    """Write one self-contained page about runs and studies.

    `ladderlm report verify DIR` checks such a page.
    """

    folders: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|STUDY...")]
    """Folders of runs and studies, in any order."""
    out: str = "report"
    """Folder of the report to write."""
    x: Axis = "flops"
    """Axis of the first figure of a study: flops (compute), device_hours or tokens. The other axes
    follow in further figures."""


@dataclass(frozen=True)
class VerifyOptions:
    """Check every number and file of a report against its runs."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the report."""


def run(argv: list[str]) -> int:
    """Write or verify as asked."""
    if argv[:1] == ["verify"]:
        return _verify(Path(parse(VerifyOptions, argv[1:], "report verify").folder))
    options = parse(ReportOptions, argv, "report")
    if not options.folders:
        raise ConfigError("no run or study is named", "", "ladderlm report RUN|STUDY... --out DIR")
    runs, studies = [], []
    for name in options.folders:
        folder = Path(name)
        if (folder / "study.json").is_file():
            studies.append(folder)
        elif (folder / "config.json").is_file():
            runs.append(folder)
        else:
            raise ConfigError(
                f"{folder} is neither a run nor a study",
                "a run folder holds config.json, a study folder study.json",
                "check the path",
            )
    from ladderlm.report.render import write_report

    print(write_report(Path(options.out), runs, studies, options.x))
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
