"""The table of differences to Meta's code names what the config offers, and nothing else."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

from design.sources import PACKAGE
from ladderlm.changes import MetaChange
from ladderlm.report.sections import CHANGES
from ladderlm.training.run_config import RunConfig

# `ModelArgs` of facebookresearch/llama; max_batch_size is the size of its cache.
META_FIELDS = set(
    "dim n_layers n_heads n_kv_heads vocab_size multiple_of ffn_dim_multiplier norm_eps "
    "max_seq_len".split()
)


def options_of(cls: type, place: str = "") -> Iterator[tuple[str, Any]]:
    """Return the dotted name and the type of every option below a dataclass."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from options_of(typing.cast(type, kind), f"{place}{field.name}.")
        else:
            yield place + field.name, kind


def choices_in(changes: tuple[MetaChange, ...]) -> dict[str, set[str]]:
    """Return the choices that the rows name for each option."""
    rows = [row for change in changes for row in change.options.items()]
    return {option: set(does) for option, does in rows if not isinstance(does, str)}


def offered() -> dict[str, set[str]]:
    """Return the choices of every option of a run that has a fixed set of them."""
    kinds = dict(options_of(RunConfig))
    return {
        option: set(typing.get_args(kind))
        for option, kind in kinds.items()
        if typing.get_origin(kind) is Literal
    }


def test_the_rows_name_every_choice_of_every_option() -> None:
    assert choices_in(CHANGES) == offered(), "change the ..._CHANGES of the option's room"


def test_a_choice_without_a_row_is_found() -> None:
    mlp = next(change for change in CHANGES if change.part == "MLP")
    fewer = dataclasses.replace(mlp, options={"model.mlp": {"swiglu": "", "gelu": ""}})
    rest = tuple(change for change in CHANGES if change is not mlp)
    assert choices_in((*rest, fewer)) != offered()


def test_every_option_of_the_model_that_meta_has_not_is_told_of() -> None:
    told = " ".join(change.here for change in CHANGES)
    own = {name for name, _ in options_of(RunConfig) if name.startswith("model.")}
    own = {name.removeprefix("model.") for name in own} - META_FIELDS
    assert {name for name in own if name not in told} == set()


def test_the_rows_name_options_and_files_that_exist() -> None:
    known = {name for name, _ in options_of(RunConfig)}
    assert {option for change in CHANGES for option in change.options} <= known
    files = {file for change in CHANGES for file in change.files.split(", ")}
    assert {file for file in files if not (PACKAGE / file).exists()} == set()
