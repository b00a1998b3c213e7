"""The table of a study, with one row per run, from the run folders.

Owns `results.csv`, from which every figure and number can be computed again.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.errors import DataError
from ladderlm.files import publish_text
from ladderlm.run.directory import RunDirectory
from ladderlm.scaling.points import Points
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planner import PlannedRun
from ladderlm.study.records import NotebookTable

__all__ = ["COLUMNS", "TIMING_COLUMNS", "Results", "Row", "collect_results", "reread_results"]

TIMING_COLUMNS = ("seconds", "device_seconds")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a study: one line of `results.csv`.

    Args:
        params: N, parameters in matrix multiplications.
        tokens: row positions trained on.
        flops: of all steps, nominal causal.
        flops_spent: of its own steps, without those of its trunk.
        device_seconds: median step time times steps.
        loss: nats per token on the validation text; None if not measured, or not a number.
        cluster: id of its trunk, or its own; runs of one trunk share their noise.
        excluded_because: why the run is not compared; "" if it is.
        subsets: bits per byte by subset of the validation text.
    """

    study: str
    run_id: str
    config_hash: str
    arm: str
    role: str
    rung: int
    branch: float = 1.0
    seed: int
    dim: int
    n_layers: int
    n_params_matrices: int | None = None
    n_params_head: int | None = None
    n_params_embedding: int | None = None
    params: int
    tokens: int
    n_steps: int
    global_batch_tokens: int
    learning_rate: float
    flops: float
    flops_spent: float
    flops_6nd: float | None = None
    seconds: float | None = None
    device_seconds: float | None = None
    hardware: str = ""
    loss: float | None = None
    bits_per_byte: float | None = None
    cluster: str
    status: str = "missing"
    excluded_because: str = "not run yet"
    subsets: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether the run is compared."""
        return not self.excluded_because

    @property
    def known_bits_per_byte(self) -> float:
        """Bits per byte if that is a positive finite number, else infinity."""
        bits = self.bits_per_byte
        return bits if bits is not None and 0 < bits < math.inf else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return plain values by column, "" for those that were not measured."""
        values = {name: getattr(self, name) for name in COLUMNS}
        lost = ("loss", "bits_per_byte") if self.status == "finished" else ()
        filled = {k: "" if v is None and k not in lost else v for k, v in values.items()}
        return filled | {f"bpb[{name}]": bits for name, bits in self.subsets.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Row":
        """Read back what `to_json` returned, from JSON or from the text of a CSV file.

        Raises:
            DataError: a required number is missing.
        """
        found: dict[str, Any] = {}
        for column in dataclasses.fields(cls)[:-1]:
            value = values.get(column.name)
            # A run id such as 12e345678901 must not be read as a number.
            known = str(value) if column.type is str else _parse_number(value)
            if known is None and column.default is dataclasses.MISSING:
                raise DataError(f"{column.name} = {value!r} in a table of a study: not a number")
            found[column.name] = column.default if known is None else known
        subsets = {
            name.removeprefix("bpb[").removesuffix("]"): _parse_number(value)
            for name, value in values.items()
            if name.startswith("bpb[") and value != ""
        }
        return cls(**found, subsets=subsets)


COLUMNS = tuple(column.name for column in dataclasses.fields(Row))[:-1]
_MEASURED = [column.name for column in dataclasses.fields(Row) if column.default is None]


def _parse_number(value: Any) -> Any:
    """Return a number, also from text; None if there is none."""
    if isinstance(value, int | float):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except (TypeError, ValueError):
            continue
    return None


@dataclass(frozen=True, repr=False)
class Results(NotebookTable):
    """The table of a study: its settled runs, in the order of the plan."""

    shown_columns = ("run_id", "arm", "role", "rung", "branch", "seed", "status", "bits_per_byte")
    rows: tuple[Row, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, place: int) -> Row:
        return self.rows[place]

    def __repr__(self) -> str:
        """Return the numbers of runs, and of those that are compared."""
        return f"Results({len(self)} runs, {len(self.compared)} compared)"

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, keep: Callable[[Row], bool]) -> "Results":
        """Return the rows for which `keep` holds."""
        return Results(tuple(row for row in self.rows if keep(row)))

    @property
    def ladder(self) -> "Results":
        """The runs of the ladder, compared or not."""
        return self.where(lambda row: row.role == "ladder")

    @property
    def compared(self) -> "Results":
        """The runs that are compared."""
        return self.where(lambda row: row.counts)

    def rates_of(self, arm: str) -> dict[tuple[int, float], float]:
        """Return the losses of an arm's search for its rates, by rung and rate."""
        return {
            (row.rung, row.learning_rate): row.bits_per_byte or math.inf
            for row in self.rows
            if (row.role, row.arm) == ("bracket", arm)
        }

    def points(self, x: str = "flops", subset: str | None = None) -> Points:
        """Return the runs that are compared as arrays.

        Args:
            x: flops, device_seconds or tokens.
            subset: of the validation text; None for all of it.
        """
        rows = self.compared.rows
        loss = [row.subsets[subset] if subset else row.bits_per_byte for row in rows]
        return Points(
            arm=np.array([row.arm for row in rows], dtype=np.str_),
            rung=np.array([row.rung for row in rows], dtype=np.int64),
            seed=np.array([row.seed for row in rows], dtype=np.int64),
            branch=np.array([row.branch for row in rows], dtype=np.float64),
            x=np.array([getattr(row, x) for row in rows], dtype=np.float64),
            loss=np.array(loss, dtype=np.float64),
        )

    def table_rows(self) -> list[dict[str, object]]:
        """Return one row per run, as in `results.csv`."""
        return [row.to_json() for row in self.rows]

    def write(self, path: Path) -> None:
        """Publish the table as CSV, with numbers in full precision."""
        subsets = sorted({f"bpb[{name}]" for row in self.rows for name in row.subsets})
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [*COLUMNS, *subsets], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.table_rows())
        publish_text(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read a table back.

        Raises:
            DataError: the file, a column or a required number is missing.
        """
        try:
            lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error}", "", "run `ladderlm study run` first"
            ) from error
        missing = [c for c in COLUMNS if lines and c not in lines[0] and c != "branch"]
        if not lines or missing:
            raise DataError(f"{path} is not a table of a study: it is empty or lacks {missing}")
        return cls(tuple(map(Row.from_json, lines)))


def collect_results(plan: StudyPlan, pool: Path) -> Results:
    """Read the summaries of all planned runs, whether they are finished and compared or not."""
    name = plan.spec.name
    runs = ((_planned_row(name, run), run.config.eval.split) for run in plan.settled)
    return Results(tuple(_measured(row, split, pool) for row, split in runs))


def _planned_row(study: str, run: PlannedRun) -> Row:
    config, rung = run.config, run.rung
    return Row(
        study=study,
        run_id=run.run_id,
        config_hash=config.meaning_hash,
        arm=run.arm,
        role=run.role,
        rung=rung.index,
        branch=rung.branch,
        seed=run.seed,
        dim=config.model.dim,
        n_layers=config.model.n_layers,
        params=rung.n_matmul,
        tokens=rung.n_tokens,
        n_steps=config.train.n_steps,
        global_batch_tokens=config.train.global_batch_tokens,
        learning_rate=config.optim.learning_rate,
        flops=rung.flops,
        flops_spent=rung.flops,
        cluster=run.trunk or run.run_id,
    )


def reread_results(results: Results, pool: Path) -> Results:
    """Read the measured columns of a table again from the run folders."""
    empty: dict[str, Any] = dict.fromkeys(_MEASURED)
    fresh = []
    for row in results:
        directory = RunDirectory(pool / row.run_id)
        split = directory.config().eval.split if directory.config_file.is_file() else "val"
        fresh.append(_measured(replace(row, **empty, hardware="", subsets={}), split, pool))
    return Results(tuple(fresh))


def _measured(row: Row, split: str, pool: Path) -> Row:
    """Return a row with the columns that the run itself has measured."""
    directory = RunDirectory(pool / row.run_id)
    summary = directory.summary()
    if summary is None:
        return replace(row, status="missing", excluded_because="not run yet")
    counts = summary["n_params"]
    row = replace(
        row,
        n_params_matrices=counts["matrices"],
        n_params_head=counts["head"],
        n_params_embedding=counts["embedding"],
        flops_6nd=summary["flops_6nd"],
        seconds=summary["timing"]["seconds"],
        device_seconds=summary["timing"]["device_seconds"],
        hardware=summary["hardware"],
        status=summary["status"],
    )
    if "branched_from" in summary:  # the steps before are its trunk's
        own = 1 - summary["branched_from"]["step"] / summary["n_steps"]
        row = replace(row, flops_spent=summary["flops"] * own)
    if row.status != "finished":
        return replace(row, excluded_because=summary.get("reason") or f"the run is {row.status}")
    last = directory.scores(split) or {}
    reason = "" if row.role == "ladder" else f"a {row.role} run, not compared"
    for name in ("loss", "bits_per_byte"):
        value = last[name]
        if not isinstance(value, int | float) or not 0 < value < 1e6:
            reason = f"{name} = {value} is not between 0 and 1e6"
    return replace(
        row,
        loss=_parse_number(last["loss"]),
        bits_per_byte=_parse_number(last["bits_per_byte"]),
        subsets={name: sub["bits_per_byte"] for name, sub in last["subsets"].items()},
        excluded_because=reason,
    )
