"""The table of a study: one row a run, from the run folders.

Owns `results.csv`, from which every figure and number can be recomputed, and its way to `Points`.
"""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.errors import DataError
from ladderlm.files import publish_text
from ladderlm.run.directory import RunDirectory
from ladderlm.scaling.points import Points
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planned import PlannedRun

__all__ = [
    "COLUMNS",
    "TIMING_COLUMNS",
    "Row",
    "collect_results",
    "points_of",
    "read_results",
    "reread_results",
    "write_results",
]

COLUMNS = (
    "study",
    "run_id",
    "config_hash",
    "arm",
    "role",
    "rung",
    "branch",
    "seed",
    "dim",
    "n_layers",
    "n_params_matrices",
    "n_params_head",
    "n_params_embedding",
    "params",
    "tokens",
    "n_steps",
    "global_batch_tokens",
    "learning_rate",
    "flops",
    "flops_spent",
    "flops_6nd",
    "seconds",
    "device_seconds",
    "hardware",
    "loss",
    "bits_per_byte",
    "cluster",
    "status",
    "excluded_because",
)
TIMING_COLUMNS = ("seconds", "device_seconds")
_MEASURED = frozenset(("n_params_matrices", "n_params_head", "n_params_embedding", "flops_6nd"))
_MEASURED |= frozenset(("seconds", "device_seconds", "hardware", "loss", "bits_per_byte"))
# A run id such as 12e345678901 must not be read as a number.
TEXT_COLUMNS = (
    "study",
    "run_id",
    "config_hash",
    "arm",
    "role",
    "hardware",
    "cluster",
    "status",
    "excluded_because",
)
Row = dict[str, Any]


def collect_results(plan: StudyPlan, pool: Path) -> list[Row]:
    """Read the summary of every planned run; a run that is missing or failed keeps its row.

    So does one that is not compared: of a search, or for the noise.
    """
    return [_row(plan.spec.name, run, RunDirectory(pool / run.run_id)) for run in plan.settled]


def _row(study: str, run: PlannedRun, directory: RunDirectory) -> Row:
    config, rung = run.config, run.rung
    row: Row = dict.fromkeys(COLUMNS, "")
    row |= {
        "study": study,
        "run_id": run.run_id,
        "config_hash": config.meaning_hash,
        "arm": run.arm,
        "role": run.role,
        "rung": rung.index,
        "branch": rung.branch,
        "seed": run.seed,
        "dim": config.model.dim,
        "n_layers": config.model.n_layers,
        "n_steps": config.train.n_steps,
        "global_batch_tokens": config.train.global_batch_tokens,
        "learning_rate": config.optim.learning_rate,
        "params": rung.n_matmul,
        "tokens": rung.n_tokens,
        "flops": rung.flops,
        "flops_spent": rung.flops,
        "cluster": run.trunk or run.run_id,
        "status": "missing",
        "excluded_because": "not run yet",
    }
    return _mark(row | _measured(directory, config.eval.split))


def _mark(row: Row) -> Row:
    """Keep a run that is not of the ladder out of the comparison."""
    if row["role"] != "ladder" and not row["excluded_because"]:
        row["excluded_because"] = f"a {row['role']} run, not compared"
    return row


def reread_results(rows: list[Row], pool: Path) -> list[Row]:
    """Read again what the run folders say of the rows of a table; the plan's columns stay."""
    fresh = []
    for row in rows:
        directory = RunDirectory(pool / str(row["run_id"]))
        split = directory.config().eval.split if directory.config_file.is_file() else "val"
        kept = {key: value for key, value in row.items() if not key.startswith("bpb[")}
        fresh.append(_mark(kept | dict.fromkeys(_MEASURED, "") | _measured(directory, split)))
    return fresh


def _measured(directory: RunDirectory, split: str) -> Row:
    """Give the columns that come from the run itself."""
    summary = directory.summary()
    if summary is None:
        return {"status": "missing", "excluded_because": "not run yet"}
    counts = summary["n_params"]
    row: Row = {
        "n_params_matrices": counts["matrices"],
        "n_params_head": counts["head"],
        "n_params_embedding": counts["embedding"],
        "flops_6nd": summary["flops_6nd"],
        "seconds": summary["timing"]["seconds"],
        "device_seconds": summary["timing"]["device_seconds"],
        "hardware": summary["hardware"],
        "status": summary["status"],
    }
    if "branched_from" in summary:  # the steps before were made by its trunk
        own = 1 - summary["branched_from"]["step"] / summary["n_steps"]
        row["flops_spent"] = summary["flops"] * own
    if summary["status"] != "finished":
        reason = summary.get("reason") or f"the run is {summary['status']}"
        return row | {"excluded_because": reason}
    last = directory.scores(split) or {}
    row |= {"loss": last["loss"], "bits_per_byte": last["bits_per_byte"], "excluded_because": ""}
    row |= {f"bpb[{name}]": sub["bits_per_byte"] for name, sub in last["subsets"].items()}
    for name in ("loss", "bits_per_byte"):
        value = last[name]
        if not isinstance(value, int | float) or not 0 < value < 1e6:
            row["excluded_because"] = f"{name} = {value} is not between 0 and 1e6"
    return row


def write_results(path: Path, rows: list[Row]) -> None:
    """Publish the table; numbers in full precision."""
    subsets = sorted({key for row in rows for key in row if key.startswith("bpb[")})
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*COLUMNS, *subsets], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    publish_text(path, buffer.getvalue())


def read_results(path: Path) -> list[Row]:
    """Read a table back, numbers as numbers.

    Raises:
        DataError: missing, or lacking a column.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error}", "", "run `ladderlm study run` first"
        ) from error
    for row in rows:
        row.setdefault("branch", "1.0")  # tables were written before there were branches
    missing = [c for c in COLUMNS if rows and c not in rows[0]]
    if not rows or missing:
        raise DataError(f"{path} is empty or lacks {missing}", "it is not a table of a study")
    return [
        {key: value if key in TEXT_COLUMNS else _number(value) for key, value in row.items()}
        for row in rows
    ]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def points_of(rows: list[Row], loss: str = "bits_per_byte", x: str = "flops") -> Points:
    """Give the rows that count as arrays.

    Args:
        loss: column of the y axis; bits per byte also compares arms with different tokenizers.
        x: flops, device_seconds or tokens.
    """
    kept = [row for row in rows if not row["excluded_because"]]
    return Points(
        arm=np.array([row["arm"] for row in kept], dtype=np.str_),
        rung=np.array([row["rung"] for row in kept], dtype=np.int64),
        seed=np.array([row["seed"] for row in kept], dtype=np.int64),
        branch=np.array([row["branch"] for row in kept], dtype=np.float64),
        x=np.array([row[x] for row in kept], dtype=np.float64),
        loss=np.array([row[loss] for row in kept], dtype=np.float64),
    )
