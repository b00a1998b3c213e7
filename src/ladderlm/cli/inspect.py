"""`ladderlm inspect`: a batch as the model sees it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ladderlm.cli.options import parse
from ladderlm.data.config import DataConfig
from ladderlm.data.inspect import describe_row, describe_stream
from ladderlm.data.shards import open_data
from ladderlm.data.stream import RowStream
from ladderlm.errors import ConfigError
from ladderlm.run.directory import RunDirectory
from ladderlm.tokenizer.base import load_tokenizer

__all__ = ["run"]


@dataclass(frozen=True)
class InspectOptions:
    """Print rows of training data: decoded tokens, documents, subsets, mask, positions."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA|RUN")]
    """Prepared data, or a run folder (then with the run's own rows and order)."""
    batch: int = 0
    """Which batch; of a run: its update number, from 0."""
    rows: int = 2
    """Rows to print."""
    seq_len: int = 256
    """Tokens of a row (of a run: its own)."""
    packing: str = "concat"
    """concat or padded (of a run: its own)."""
    split: str = "train"
    """Which split (of a run: its own)."""


def run(argv: list[str]) -> int:
    """Print rows as asked."""
    options = parse(InspectOptions, argv, "inspect", "Look at batches as the model sees them.")
    if options.batch < 0 or options.rows < 1:
        raise ConfigError(
            f"--batch {options.batch} --rows {options.rows}", "batches count from 0, rows from 1"
        )
    config, path, rows_per_batch = _choose(options)
    data = open_data(path)
    stream = RowStream(data.split(config.split), config, data.bos_id)
    tokenizer = load_tokenizer(data.tokenizer_folder)
    first_row = options.batch * rows_per_batch
    batch = stream.rows(first_row, min(options.rows, rows_per_batch))
    print(describe_stream(stream))
    for row in range(batch.n_rows):
        print(f"\nrow {first_row + row} of batch {options.batch}")
        print(describe_row(batch, row, stream.split, tokenizer))
    return 0


def _choose(options: InspectOptions) -> tuple[DataConfig, str, int]:
    """Give data config, data folder and rows of a batch."""
    if (Path(options.data) / "config.json").is_file():
        run = RunDirectory(options.data).config()
        if run.data.path is None:
            raise ConfigError(f"{options.data} does not say where its data lies")
        return run.data, run.data.path, run.global_batch_seqs
    if options.packing not in ("concat", "padded"):
        raise ConfigError(f"--packing {options.packing!r}", "it is concat or padded")
    config = DataConfig(
        seq_len=options.seq_len,
        packing=options.packing,  # type: ignore[arg-type]  # checked above
        split=options.split,
    )
    return config, options.data, options.rows
