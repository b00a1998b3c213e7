"""Tasks of lm-eval for `ladderlm eval --tasks`: how they are asked for and what is printed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladderlm.cli.options import print_json
from ladderlm.errors import ConfigError
from ladderlm.text import visible

__all__ = ["TaskRequest", "describe_tasks", "run_tasks_of"]


@dataclass(frozen=True)
class TaskRequest:
    """Which tasks to run, and how.

    Args:
        tasks: names.
        folder: with the YAML files of own tasks; None: lm-eval's own.
        n_documents: of each task, at most.
        checkpoint: see `checkpoint.choose.choose`.
        device: where the model runs.
        batch_tokens: positions of one forward pass.
    """

    tasks: list[str]
    folder: str | None
    n_documents: int
    checkpoint: str | None
    device: str
    batch_tokens: int


def run_tasks_of(runs: list[str], request: TaskRequest, json: bool) -> None:
    """Run tasks on each run and print the results.

    Args:
        json: print what lm-eval gives, as JSON.

    Raises:
        LadderError: no such run, task or checkpoint, or lm-eval is not installed.
    """
    from ladderlm.convert.native import is_native
    from ladderlm.foreign.lm_eval import run_tasks
    from ladderlm.run.open import load

    for name in runs:
        if (Path(name) / "config.json").is_file() and not is_native(Path(name)):
            raise ConfigError(
                f"--tasks with {name}, which is no run",
                "lm-eval reads the models of other people by itself",
                f"run `lm_eval --model hf --model_args pretrained={name} --tasks ...`",
            )
    found = []
    for name in runs:
        loaded = load(name, request.checkpoint, request.device)
        results = run_tasks(
            loaded,
            request.tasks,
            None if request.folder is None else Path(request.folder),
            request.n_documents,
            request.batch_tokens,
        )
        found.append({"run": name, "step": loaded.step, **results})
    if json:
        kept = ("run", "step", "results", "n-samples", "versions", "configs")
        rows = [{key: one[key] for key in kept if key in one} for one in found]
        print_json(rows[0] if len(rows) == 1 else {"tasks": rows})
        return
    print("\n\n".join(describe_tasks(one) for one in found))


def describe_tasks(found: dict[str, Any]) -> str:
    """Return a line for each metric of each task, with its standard error."""
    lines = [f"{visible(found['run'])}, step {found['step']}"]
    lines.append(f"  {'task':<24} {'documents':>9}  {'metric':<20} {'value':>10} {'+-':>10}")
    for task, values in sorted(found["results"].items()):
        n = (found["n-samples"].get(task) or {}).get("effective", "")
        for name, value in values.items():
            metric, _, rest = name.partition(",")
            if not isinstance(value, float | int) or metric.endswith("_stderr") or not rest:
                continue
            error = values.get(f"{metric}_stderr,{rest}")
            spread = f"{error:.4f}" if isinstance(error, float) else ""
            label = metric if rest == "none" else f"{metric} ({rest})"
            lines.append(
                f"  {visible(task):<24} {n:>9}  {visible(label):<20} {value:>10.4f} {spread:>10}"
            )
    return "\n".join(lines)
