"""`ladderlm inspect`: show a batch as the model sees it, and prove it right."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from ladderlm.cli.options import parse, print_json
from ladderlm.config import from_dict, require
from ladderlm.data.batch import Batch
from ladderlm.data.config import DataConfig, Packing
from ladderlm.data.inspect import (
    compare_policies,
    describe_row,
    describe_stream,
    explain_policy,
    row_pieces,
    show_tokens,
    sketch_attention,
    summarise_batch,
)
from ladderlm.data.shards import PreparedData, open_data
from ladderlm.data.stream import RowStream
from ladderlm.errors import ConfigError
from ladderlm.files import publish_text
from ladderlm.report.xray import Xray, heat_levels, render_xray
from ladderlm.run.directory import RunDirectory
from ladderlm.text import visible
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.training.config import BatchGrowth

if TYPE_CHECKING:
    from ladderlm.eval.proofs import Proof
    from ladderlm.model.transformer import Transformer

__all__ = ["run"]

MAX_SHOWN_ROWS = 64


@dataclass(frozen=True)
class InspectOptions:
    """Show batches as the model sees them: text, documents, subsets, mask, positions, losses."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA|RUN")]
    """Folder of prepared data, or of a run. A run's own rows, order and losses are shown."""
    batch: int = 0
    """Number of the batch, from 0. In a run it is the number of the update."""
    rows: int = 2
    """Number of rows to show."""
    html: str | None = None
    """HTML page to write. Default: print the rows instead."""
    prove: bool = False
    """Prove that no document leaks into another one's loss. The exit code is 1 if a proof fails."""
    seq_len: int = DataConfig.seq_len
    """Length of a row, in tokens. A run has its own."""
    packing: Packing = DataConfig.packing
    """How documents are put into rows: concat, padded or best-fit. A run has its own choice."""
    mask_documents: bool = DataConfig.mask_documents
    """Let a token attend only to tokens of its own document. A run has its own choice."""
    split: str = DataConfig.split
    """Name of the split. A run has its own."""
    step: int | None = None
    """Step of the checkpoint of a run whose losses are shown. Default: the newest one."""
    json: bool = False
    """Print numbers and ids as JSON."""

    def __post_init__(self) -> None:
        require("--batch", self.batch, self.batch >= 0, "be at least 0")
        valid = 1 <= self.rows <= MAX_SHOWN_ROWS
        require("--rows", self.rows, valid, f"be between 1 and {MAX_SHOWN_ROWS}")


def run(argv: list[str]) -> int:
    """Show the rows of a batch, and prove them if asked to."""
    options = parse(InspectOptions, argv, "inspect")
    config, data, growth = _choose(options)
    stream = RowStream(data.split(config.split), config, data.bos_id)
    first_row, n_rows = growth.rows_before(options.batch), growth.rows_at(options.batch)
    view = Xray(
        title=Path(options.data).resolve().name,
        stream=stream,
        tokenizer=load_tokenizer(data.tokenizer_folder),
        batch=stream.rows(first_row, n_rows),
        first_row=first_row,
        number=options.batch,
        n_shown=min(options.rows, n_rows),
    )
    view, model = _with_losses(view, options)
    proofs: Sequence[Proof] = _prove_batch(view, data, model) if options.prove else ()
    view = replace(view, proofs=proofs)
    if options.html is not None:
        publish_text(Path(options.html), render_xray(view))
    if options.json:
        print_json(_as_json(view))
    else:
        _print_batch(view, options.html)
    return 0 if all(proof.passed for proof in view.proofs) else 1


def _choose(options: InspectOptions) -> tuple[DataConfig, PreparedData, BatchGrowth]:
    """Return the config of the data, the data, and the number of rows in each batch."""
    if (Path(options.data) / "config.json").is_file():
        run = RunDirectory(options.data).config()
        if run.data.path is None:
            raise ConfigError(
                f"the config of {options.data} names no data",
                fix="name the folder of the data instead of the run",
            )
        return run.data, open_data(run.data.path), run.batch_growth
    names = ("seq_len", "packing", "split", "mask_documents")
    values = {name: getattr(options, name) for name in names}
    growth = BatchGrowth(options.rows, options.rows, 0)
    return from_dict(DataConfig, values, "data"), open_data(options.data), growth


def _with_losses(view: Xray, options: InspectOptions) -> "tuple[Xray, Transformer | None]":
    """Add the losses of a run's model on the shown rows; return the model too."""
    run = RunDirectory(options.data)
    if not run.config_file.is_file():
        return view, None
    from ladderlm.checkpoint.layout import list_checkpoints

    if options.step is None and not list_checkpoints(run.checkpoints):
        note = "The run has no checkpoint yet, so no losses are known."
        return replace(view, model_note=note), None
    from ladderlm.eval.xray import token_losses
    from ladderlm.run.open import load

    loaded = load(run.path, options.step)
    seen = "was" if options.batch < loaded.step else "was not"
    note = f"Losses of the model after {loaded.step} updates; it {seen} trained on this batch."
    shown = view.batch.rows(0, view.n_shown)
    losses = token_losses(loaded.model, shown, view.stream.config.mask_documents)
    return replace(view, losses=losses, model_note=note), loaded.model


def _prove_batch(view: Xray, data: PreparedData, model: "Transformer | None") -> "Sequence[Proof]":
    """Prove that no document leaks, with the model of the run or a new one."""
    from ladderlm.eval.proofs import proof_rows, prove
    from ladderlm.eval.xray import fresh_model
    from ladderlm.training.compute import Compute
    from ladderlm.training.step import accumulate_gradients

    config = view.stream.config
    model = model or fresh_model(data.vocab_size, config.seq_len)
    batch = proof_rows(view.stream, view.first_row, view.n_shown)

    def accumulate(model: "Transformer", rows: Batch) -> Any:
        return accumulate_gradients(
            Compute(model), rows, rows.n_targets, rows.n_rows, config.mask_documents
        )

    return prove(model, batch, view.stream.split, data.bos_id, config.mask_documents, accumulate)


def _as_json(view: Xray) -> dict[str, Any]:
    stream = view.stream
    rows = []
    for row in range(view.n_shown):
        pieces = row_pieces(view.batch, row, stream.split, view.tokenizer)
        hidden = ("text", "ids")
        rows.append(
            {
                "row": view.first_row + row,
                "pieces": [{k: v for k, v in vars(p).items() if k not in hidden} for p in pieces],
                "arrays": {name: array[row].tolist() for name, array in vars(view.batch).items()},
                "losses": None if view.losses is None else view.losses[row].tolist(),
            }
        )
    return {
        "batch": view.number,
        "packing": stream.config.packing,
        "mask_documents": stream.config.mask_documents,
        "why": explain_policy(stream.config),
        "summary": summarise_batch(view.batch, stream.split),
        "policies": {k: report.as_dict() for k, report in compare_policies(stream).items()},
        "rows": rows,
        "note": view.model_note,
        "proofs": [vars(proof) for proof in view.proofs],
    }


def _print_batch(view: Xray, page: str | None) -> None:
    print(describe_stream(view.stream))
    if view.model_note:
        print(view.model_note)
    _print_summary(view)
    if page is None:
        for row in range(view.n_shown):
            _print_row(view, row)
    for proof in view.proofs:
        print(f"{'PASS' if proof.passed else 'FAIL'}  {proof.name}: {proof.statement}")
    if view.proofs:
        n_passed = sum(proof.passed for proof in view.proofs)
        print(f"{n_passed} of {len(view.proofs)} proofs hold")
    if page is not None:
        print(f"page: {page}")


def _print_summary(view: Xray) -> None:
    found = summarise_batch(view.batch, view.stream.split)
    print(
        f"batch: {found['n_rows']:,} rows, {found['n_tokens']:,} tokens of "
        f"{found['n_documents']:,} documents; {found['waste']:.2%} padding, "
        f"{found['masked']:.2%} without a target"
    )
    for name, subset in found["subsets"].items():
        print(
            f"  {visible(name, '')[:48]:<26} {subset['n_tokens']:>9,} tokens "
            f"{subset['share']:>7.1%}  {subset['n_documents']:>5,} documents"
        )


def _print_row(view: Xray, row: int) -> None:
    segments = view.batch.segment_ids[row]
    print(f"\nrow {view.first_row + row} of batch {view.number}")
    print(describe_row(view.batch, row, view.stream.split, view.tokenizer))
    print("  attention: a line per query, a column per key, a letter per document")
    for line in sketch_attention(segments, view.stream.config.mask_documents):
        print("    " + line)
    if view.losses is not None:
        print("  " + _hardest(view, view.losses[row], row))
    if sys.stdout.isatty():
        _print_coloured(view, row)


def _hardest(view: Xray, losses: NDArray[np.float64], row: int) -> str:
    """Return the mean loss of a row and its tokens with the highest loss."""
    counted = np.flatnonzero(view.batch.loss_mask[row])
    if not len(counted):
        return "loss: no targets"
    worst = counted[np.argsort(-losses[counted], kind="stable")][:5]
    spelt = [
        f"{show_tokens([int(view.batch.targets[row, place])], view.tokenizer)[0].text!r} "
        f"{losses[place]:.2f}"
        for place in worst
    ]
    return f"loss: {losses[counted].mean():.3f} nats a token; hardest: {', '.join(spelt)}"


def _print_coloured(view: Xray, row: int) -> None:
    """Print the text of a row, coloured by document and, where losses are known, by loss."""
    from rich.console import Console
    from rich.text import Text

    colours = ("blue", "dark_orange3", "dark_green", "magenta", "gold3", "purple4")
    heats = (236, 238, 240, 58, 94, 136, 166, 160, 124, 88)
    batch, segments = view.batch, view.batch.segment_ids[row]
    n_real = int((segments >= 0).sum())
    shown = show_tokens(batch.tokens[row, :n_real].tolist(), view.tokenizer)
    by_document, by_loss = Text("  "), Text("  ")
    levels = [] if view.losses is None else heat_levels(view.losses[row], batch.loss_mask[row])
    for place, token in enumerate(shown):
        text = f"<{token.text}>" if token.kind == "control" else token.text.replace("\n", "⏎\n")
        style = "underline " if batch.loss_mask[row, place] else ""
        by_document.append(text, f"{style}white on {colours[segments[place] % len(colours)]}")
        if levels and levels[place] >= 0:
            by_loss.append(text, f"white on color({heats[levels[place]]})")
    console = Console(file=sys.stdout, highlight=False)
    console.print(by_document)
    if levels:
        console.print(by_loss)
