"""`ladderlm eval`: score runs and other people's models on a text, document by document."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ladderlm.cli.evaluations import describe_comparison, describe_evaluation, describe_table
from ladderlm.cli.options import CheckpointOptions, Progress, parse, print_json, progress_bar
from ladderlm.dist import Processes
from ladderlm.errors import ConfigError
from ladderlm.eval.config import EvaluationRequest
from ladderlm.machine import find_device

if TYPE_CHECKING:
    from ladderlm.eval.evaluate import Evaluation

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class EvalOptions(CheckpointOptions, EvaluationRequest):
    """Score text in bits per byte, by subset. Each byte is scored once."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, folders of Hugging Face models, or OWNER/NAME[@REVISION] of its hub."""
    data: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    against: str | None = None
    """Run or model to compare with on the same bytes, with confidence intervals. Default: none."""
    out: str = "evals"
    """Folder for evaluations of Hugging Face models. Those of a run are stored in the run."""
    table: bool = False
    """Print one line per run: bits per byte, parameters, FLOPs, and the difference from the first
    run."""
    tasks: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Task of lm-eval to run instead of scoring a split. May be given several times. Only for
    runs."""
    task_folder: str | None = None
    """Folder of your own task files (YAML). Only these tasks are available then."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda")] = "auto"
    """Where the model runs. auto: cuda if there is a GPU, otherwise cpu."""
    json: bool = False
    """Print all results as JSON."""


def run(argv: list[str]) -> int:
    """Evaluate; under torchrun the processes share the work and the first one prints."""
    options = parse(EvalOptions, argv, "eval")
    names = list(dict.fromkeys(options.runs))
    if not names:
        raise ConfigError("no RUN is named", fix="name a run: ladderlm eval RUN")
    if options.against is not None and options.table:
        raise ConfigError(
            "--against cannot be combined with --table",
            "a table compares all runs with its first one",
            f"leave out --against, and name {options.against} as the first run",
        )
    if options.tasks:
        _run_tasks(options, names)
        return 0
    device = find_device(options.device)
    processes = Processes.join(device)
    try:
        if device == "cuda":
            device = f"cuda:{processes.local_rank}"
        evaluate = _Evaluator(replace(options, device=device), processes)
        evaluations = [evaluate(name) for name in names]
        base = evaluations[0] if options.table else None
        if options.against is not None:
            base = evaluate(options.against)
        if processes.first:
            _report(options, evaluations, base)
    finally:
        processes.leave()
    return 0


def _run_tasks(options: EvalOptions, names: list[str]) -> None:
    from ladderlm.cli.tasks import run_tasks_of

    idle = ("data", "context", "stride", "against", "table", "fresh")
    if given := [f"--{name}" for name in idle if getattr(options, name) not in (None, False, ())]:
        raise ConfigError(
            f"--tasks cannot be combined with {', '.join(given)}",
            "a task has its own documents and its own way of scoring",
            f"leave out {' and '.join(given)}",
        )
    tasks = [task for given in options.tasks for task in given.split(",")]
    request = replace(options, device=find_device(options.device))
    run_tasks_of(names, tasks, options.task_folder, request, options.json)


class _Evaluator:
    """Score runs and foreign models by their names."""

    def __init__(self, options: EvalOptions, processes: Processes) -> None:
        from ladderlm.foreign.hub import find_foreign

        self.options, self.processes = options, processes
        names = dict.fromkeys((*options.runs, *filter(None, [options.against])))
        found = {name: find_foreign(name) for name in names}
        self.foreign = {name: model for name, model in found.items() if model is not None}
        self.runs = [name for name in names if name not in self.foreign]
        if options.checkpoint is not None and not self.runs:
            raise ConfigError(
                f"--checkpoint {options.checkpoint} needs a run, but only Hugging Face models are "
                "named",
                fix="leave it out; another revision of a model is OWNER/NAME@REVISION",
            )

    def __call__(self, name: str) -> "Evaluation":
        """Evaluate with a progress display."""
        from ladderlm.eval.evaluate import Material, evaluate
        from ladderlm.eval.texts import read_texts
        from ladderlm.run.subject import evaluate_run
        from ladderlm.watch import UNWATCHED, Watch

        with contextlib.ExitStack() as opened:
            bars: list[Progress] = []

            def progress(done: int, n_windows: int) -> None:
                if not bars:  # their number is known at the first call only
                    bars.append(opened.enter_context(progress_bar(f"{name}: windows", n_windows)))
                bars[0](done)

            request, processes = self.options, self.processes
            watch = Watch(progress=progress) if processes.first else UNWATCHED
            if name not in self.foreign:
                return evaluate_run(name, request, processes, watch)
            from ladderlm.foreign.subject import ForeignSubject

            subject = ForeignSubject(self.foreign[name], Path(request.out))
            texts = read_texts(self._texts(), request.split, request.max_documents)
            return evaluate(subject, Material.from_texts(texts), request, processes, watch)

    def _texts(self) -> Path:
        """Return where the raw text for foreign models comes from."""
        from ladderlm.run.directory import RunDirectory
        from ladderlm.run.subject import data_of

        if self.options.data:
            return Path(self.options.data[0])
        if self.runs:
            return data_of(RunDirectory(self.runs[0]))
        raise ConfigError(
            "a Hugging Face model needs text to be scored on, but no data is named",
            fix="add --data with prepared data or a corpus file, or name a run as well",
        )


def _report(
    options: EvalOptions, evaluations: list["Evaluation"], base: "Evaluation | None"
) -> None:
    """Print the results, and the differences from `base` if there is one."""
    from ladderlm.eval.compare import compare_losses

    comparisons = [
        compare_losses(one.losses, base.losses, (one.name, base.name))
        | {"policies": [one.summary["policy"], base.summary["policy"]]}
        for one in evaluations
        if base is not None and one is not base
    ]
    if options.json:
        summaries = [{"run": one.name, **one.summary} for one in evaluations]
        alone = base is None and len(summaries) == 1
        print_json(
            summaries[0] if alone else {"evaluations": summaries, "comparisons": comparisons}
        )
    elif options.table:
        print(describe_table([(one.name, one.summary) for one in evaluations], comparisons))
    else:
        shown = evaluations if base is None else [*evaluations, base]
        blocks = [describe_evaluation(one.name, one.summary, str(one.path)) for one in shown]
        print("\n\n".join(blocks + [describe_comparison(found) for found in comparisons]))
