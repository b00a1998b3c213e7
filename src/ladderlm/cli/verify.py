"""`ladderlm verify`: check the files of a run or of prepared data against their hashes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ladderlm.checkpoint.layout import list_checkpoints, verify_checkpoint
from ladderlm.cli.options import parse
from ladderlm.data.shards import open_data
from ladderlm.errors import ConfigError, DataError
from ladderlm.run.directory import RunDirectory
from ladderlm.tokenizer.load import load_tokenizer

__all__ = ["run"]


@dataclass(frozen=True)
class VerifyOptions:
    """Check every file of a run or of prepared data against its hash."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|DATA")]
    """Folder of a run or of prepared data."""


def run(argv: list[str]) -> int:
    """Verify a folder; the first damaged file raises an error that names it."""
    folder = Path(parse(VerifyOptions, argv, "verify").folder)
    if (folder / "facts.json").is_file():
        raise ConfigError(f"{folder} is a report", fix=f"use `ladderlm report verify {folder}`")
    if (folder / "manifest.json").is_file():
        data = open_data(folder)
        _verify_tokenizer(data.tokenizer_folder, data.tokenizer_fingerprint)
        for name in data.split_names:
            data.check_files(name)
            print(f"{folder}: split {name}: {data.split(name).n_tokens:,} tokens good")
    elif (folder / "config.json").is_file():
        directory = RunDirectory(folder)
        config = directory.config()
        if (folder / "tokenizer").is_dir():
            _verify_tokenizer(folder / "tokenizer", config.data.tokenizer_fingerprint)
        checkpoints = list_checkpoints(directory.checkpoints)
        for checkpoint in checkpoints:
            verify_checkpoint(checkpoint)
            print(f"{checkpoint.folder}: good")
        if not checkpoints:
            print(f"{folder}: no checkpoint yet")
    else:
        raise ConfigError(f"{folder} is neither prepared data nor a run", fix="check the path")
    return 0


def _verify_tokenizer(folder: Path, fingerprint: str | None) -> None:
    """Compare a tokenizer with its own record and with that of the data or run that uses it."""
    if load_tokenizer(folder).fingerprint != fingerprint:  # loading compares it with its record
        raise DataError(
            f"{folder} is not the tokenizer that was recorded",
            "its ids would decode to other texts",
            "restore the folder from a copy, or train or import the tokenizer again",
        )
