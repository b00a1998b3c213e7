"""Run tasks of lm-eval for `ladderlm eval --tasks`, and print their results."""

from pathlib import Path
from typing import Any

from ladderlm.cli.options import print_json
from ladderlm.errors import ConfigError
from ladderlm.eval.config import EvaluationRequest
from ladderlm.text import visible

__all__ = ["run_tasks_of"]


def run_tasks_of(
    runs: list[str], tasks: list[str], folder: str | None, request: EvaluationRequest, json: bool
) -> None:
    """Run tasks on each run and print the results.

    Args:
        folder: of your own task files (YAML); None: the tasks of lm-eval.
        request: of which checkpoint, device, limits of documents and tokens are used.
        json: print the results of lm-eval as JSON.

    Raises:
        LadderError: a run, task or checkpoint does not exist, or lm-eval is not installed.
    """
    from ladderlm.convert.native import is_native
    from ladderlm.foreign.lm_eval import run_tasks
    from ladderlm.run.open import load

    for name in runs:
        if (Path(name) / "config.json").is_file() and not is_native(Path(name)):
            raise ConfigError(
                f"--tasks needs runs, but {name} is a Hugging Face model",
                fix=f"run `lm_eval --model hf --model_args pretrained={name} --tasks "
                f"{','.join(tasks)}`",
            )
    task_folder = None if folder is None else Path(folder)
    found = []
    for name in runs:
        loaded = load(name, request.checkpoint, request.device)
        results = run_tasks(loaded, tasks, task_folder, request.max_documents, request.batch_tokens)
        found.append({"run": name, "step": loaded.step, **results})
    if json:
        kept = ("run", "step", "results", "n-samples", "versions", "configs")
        rows = [{key: one[key] for key in kept if key in one} for one in found]
        print_json(rows[0] if len(rows) == 1 else {"tasks": rows})
    else:
        print("\n\n".join(map(_describe_tasks, found)))


def _describe_tasks(found: dict[str, Any]) -> str:
    """Return one line for each metric of each task, with its standard error."""
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
