"""`ladderlm eval`: what models make of a split, document by document."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ladderlm.cli.evaluations import describe_comparison, describe_evaluation, describe_table
from ladderlm.cli.options import CheckpointOptions, Progress, parse, print_json, progress_bar
from ladderlm.errors import ConfigError
from ladderlm.machine import find_device

if TYPE_CHECKING:
    from ladderlm.dist import Processes
    from ladderlm.eval.evaluate import Evaluation, EvaluationRequest

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class EvalOptions(CheckpointOptions):
    """Score text in bits per byte, by subset. Each byte is scored once."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, folders of Hugging Face models, or OWNER/NAME[@REVISION] of its hub."""
    data: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Prepared data, or corpus files such as val.jsonl.zst. May be given several times, for runs
    with different tokenizers; Hugging Face models use the first. Default: the data of the run."""
    split: str = "val"
    """Name of the split to score."""
    max_documents: int = 10_000
    """Number of documents to score, from the first."""
    context: int | None = None
    """Tokens that a window may hold. Default: as in the run's validation; for Hugging Face models
    their limit, at most 2048."""
    stride: int | None = None
    """Tokens scored by each window after the first. Default: the context, so windows do not
    overlap."""
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
    fresh: bool = False
    """Score again even if the result is stored."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs. auto: cuda if there is a GPU, otherwise cpu."""
    batch_tokens: int = 8192
    """Tokens of one forward pass. The results do not depend on it."""
    packing: Literal["rows", "packed"] = "rows"
    """How windows are put into rows. rows: one window per row. packed: several short ones per row.
    The results do not depend on it."""
    json: bool = False
    """Print all results as JSON."""


def run(argv: list[str]) -> int:
    """Evaluate as asked; under torchrun the processes share the work and the first one speaks."""
    options = parse(EvalOptions, argv, "eval")
    names = list(dict.fromkeys(options.runs))
    if not names:
        raise ConfigError("no run is named", "", "ladderlm eval RUN... [--split val]")
    if options.against is not None and options.table:
        raise ConfigError(
            "--against and --table together",
            "a table compares with its first run",
            "leave one out, or name the run to compare with first",
        )
    if options.tasks:
        _run_tasks(options, names)
        return 0
    from ladderlm.dist import Processes
    from ladderlm.eval.evaluate import EvaluationRequest

    device = find_device(options.device)
    processes = Processes.join(device)
    try:
        if device == "cuda":
            device = f"cuda:{processes.local_rank}"
        request = EvaluationRequest(
            data=options.data,
            split=options.split,
            n_documents=options.max_documents,
            context=options.context,
            stride=options.stride,
            checkpoint=options.checkpoint,
            fresh=options.fresh,
            batch_tokens=options.batch_tokens,
            packing=options.packing,
            device=device,
        )
        evaluate = _Evaluator(options, request, processes)
        evaluations = [evaluate(name) for name in names]
        base = None
        if options.table:
            base = evaluations[0]
        elif options.against is not None:
            base = evaluate(options.against)
        if processes.first:
            _report(options, evaluations, base)
    finally:
        processes.leave()
    return 0


def _run_tasks(options: EvalOptions, names: list[str]) -> None:
    from ladderlm.cli.tasks import TaskRequest, run_tasks_of

    idle = ("data", "context", "stride", "against", "table", "fresh")
    if given := [f"--{name}" for name in idle if getattr(options, name) not in (None, False, ())]:
        raise ConfigError(
            f"--tasks with {', '.join(given)}",
            "a task brings its own documents, and they are scored as the task says",
            "leave one of both out",
        )
    request = TaskRequest(
        [task for given in options.tasks for task in given.split(",")],
        options.task_folder,
        options.max_documents,
        options.checkpoint,
        find_device(options.device),
        options.batch_tokens,
    )
    run_tasks_of(names, request, options.json)


class _Evaluator:
    """Score what a name stands for, a run or a foreign model."""

    def __init__(
        self, options: EvalOptions, request: "EvaluationRequest", processes: "Processes"
    ) -> None:
        from ladderlm.foreign.hub import find_foreign

        self.options, self.request, self.processes = options, request, processes
        against = () if options.against is None else (options.against,)
        names = dict.fromkeys((*options.runs, *against))
        found = {name: find_foreign(name) for name in names}
        self.foreign = {name: model for name, model in found.items() if model is not None}
        self.runs = [name for name in names if name not in self.foreign]
        if options.checkpoint is not None and not self.runs:
            raise ConfigError(
                f"--checkpoint {options.checkpoint}, and no run is named",
                "a model of Hugging Face's has its weights once",
                "leave it out; another revision on the hub is OWNER/NAME@REVISION",
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
                if not bars:  # how many there are is known at the first call only
                    bars.append(opened.enter_context(progress_bar(f"{name}: windows", n_windows)))
                bars[0](done)

            request, processes = self.request, self.processes
            watch = Watch(progress=progress) if processes.first else UNWATCHED
            if name not in self.foreign:
                return evaluate_run(name, request, processes, watch)
            from ladderlm.foreign.subject import ForeignSubject

            subject = ForeignSubject(self.foreign[name], Path(self.options.out))
            texts = read_texts(self._texts(), request.split, request.n_documents)
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
            "no data is named",
            "a model of Hugging Face's does not say on which text it shall be scored",
            "add --data with prepared data or a corpus file, or name a run as well",
        )


def _report(
    options: EvalOptions, evaluations: list["Evaluation"], base: "Evaluation | None"
) -> None:
    """Print numbers, and the differences to `base` if there is one."""
    from ladderlm.eval.compare import compare_losses

    comparisons = [
        compare_losses(one.losses, base.losses, (one.name, base.name))
        | {"policies": [one.summary["policy"], base.summary["policy"]]}
        for one in evaluations
        if base is not None and one is not base
    ]
    if options.json:
        summaries = [{"run": one.name, **one.summary} for one in evaluations]
        if base is None and len(summaries) == 1:
            print_json(summaries[0])
        else:
            print_json({"evaluations": summaries, "comparisons": comparisons})
        return
    if options.table:
        print(describe_table([(one.name, one.summary) for one in evaluations], comparisons))
        return
    blocks = [describe_evaluation(one.name, one.summary, str(one.path)) for one in evaluations]
    if base is not None:
        blocks.append(describe_evaluation(base.name, base.summary, str(base.path)))
    print("\n\n".join(blocks + [describe_comparison(found) for found in comparisons]))
