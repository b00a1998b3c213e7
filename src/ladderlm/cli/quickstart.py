"""`ladderlm quickstart`: do everything once, on text that is already on this machine."""

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ladderlm.cli.options import parse, progress_bar, training_bar
from ladderlm.cli.study import show_fits
from ladderlm.cli.study_runs import StudyProgress, run_study
from ladderlm.config import require
from ladderlm.corpus.local import fetch_local
from ladderlm.data.shards import open_data
from ladderlm.errors import ExecutorError
from ladderlm.files import publish_json, publish_text, read_json
from ladderlm.machine import count_cores
from ladderlm.model.accounting import train_flops_per_token
from ladderlm.model.config import ModelConfig
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.prepare.vocabulary import TokenizerConfig, train_tokenizer
from ladderlm.run.directory import RunDirectory
from ladderlm.run.presets import preset
from ladderlm.study.budget import (
    ASPECT_RATIO,
    Budget,
    choose_final_shape,
    choose_probe_shapes,
    plan_budget,
    plan_final,
)
from ladderlm.study.plan import StudyPlan
from ladderlm.study.study import Study
from ladderlm.training.run_config import RunConfig
from ladderlm.units import format_bytes, format_count, format_flops, format_seconds

__all__ = ["run"]

VOCAB_SIZE = 2048
TOKENIZER_BYTES = 16_000_000
PROMPTS = ("def ", "import numpy as np\n", "class ", "# ")

STUDY = """\
name = "swiglu-vs-gelu"
question = "Is SwiGLU worth its third matrix at equal compute?"
rationale = "LLaMA uses SwiGLU with three matrices of 8/3 dim, where GPT-2 had GELU with two of \
4 dim: equal parameters, one more matrix multiplication and a gate. Shazeer (2020) saw lower loss \
at equal size; the question is what that is worth in compute at the scale of this ladder, and \
whether it grows or shrinks along it."

[base]
preset = "llama"
data = "{data}"
"eval.n_samples" = 0
"execution.device" = "cpu"

[ladder]
flops = [{flops}]
tokens_per_param = {tokens_per_param}
aspect_ratio = {aspect_ratio}
min_updates = 150
noise_seeds = 0
seeds = [1]
extra_seeds = [2]
extra_seed_rungs = 2
holdout = 1

[study]
demonstration = true

[[arm]]
name = "swiglu"

[[arm]]
name = "gelu"
hypothesis = "GELU needs a little more compute than SwiGLU for the same loss: m below 1."
set = {{ "model.mlp" = "gelu" }}
"""


@dataclass(frozen=True)
class QuickstartOptions:
    """Do everything once on local text: corpus, tokenizer, data, study, best model, report."""

    out: str = "quickstart"
    """Folder of all results. Parts that it already has are kept."""
    minutes: float = 5.0
    """Approximate time for everything."""

    def __post_init__(self) -> None:
        valid = 0.5 <= self.minutes <= 10_000
        fix = "leave --minutes out for 5 minutes"
        require("--minutes", f"{self.minutes:g}", valid, "be between 0.5 and 10000", fix)


def run(argv: list[str]) -> int:
    """Run all stages."""
    options = parse(QuickstartOptions, argv, "quickstart")
    began = time.monotonic()
    out = Path(options.out)
    data = _make_data(out)
    budget = _find_budget(out, data, options.minutes)
    study_folder = _run_study(out, data, budget)
    seconds_left = 60 * options.minutes - (time.monotonic() - began)
    best = _run_final(out, data, _find_final(out, data, budget, seconds_left))
    _print_stage(6, "writing the report")
    from ladderlm.report.render import write_report

    page = write_report(out / "report", [best], [study_folder])
    _finish(out, page, time.monotonic() - began)
    return 0


def _print_stage(stage: int, text: str) -> None:
    print(f"[{stage}/6] {text}", file=sys.stderr, flush=True)


def _make_data(out: Path) -> Path:
    """Fetch the corpus, train the tokenizer and prepare the data; finished parts are kept."""
    corpus = fetch_local(out / "corpus")
    documents = sum(split["n_documents"] for split in corpus["splits"].values())
    size = format_bytes(corpus["n_bytes"])
    _print_stage(1, f"corpus: {documents:,} documents, {size} of text found on this machine")
    record = out / "tokenizer" / "ladderlm.json"
    if not record.is_file() or read_json(record).get("vocab_size") != VOCAB_SIZE:
        train_tokenizer(
            TokenizerConfig(
                sources=(str(out / "corpus" / "train.jsonl.zst"),),
                vocab_size=VOCAB_SIZE,
                out=str(out / "tokenizer"),
                max_bytes=TOKENIZER_BYTES,
            )
        )
    _print_stage(2, f"tokenizer: {VOCAB_SIZE:,} tokens")
    config = PrepareConfig(
        sources=(str(out / "corpus"),), tokenizer=str(out / "tokenizer"), out=str(out / "data")
    )
    with progress_bar("documents") as bar:
        manifest = prepare(config, lambda split, n: bar(n, split))
    splits = manifest["splits"].items()
    shown = ", ".join(f"{name} {format_count(split['n_tokens'])} tokens" for name, split in splits)
    _print_stage(3, f"data: {shown}, every file with its hash")
    return out / "data"


def _base(data: Path) -> RunConfig:
    base = preset("llama")
    model = replace(base.model, vocab_size=open_data(data).vocab_size)
    return replace(base, model=model, data=replace(base.data, path=str(data)))


def _find_budget(out: Path, data: Path, minutes: float) -> Budget:
    """Measure this machine and plan the ladder, unless an earlier start has done so."""
    file = out / "budget.json"
    if file.is_file() and (known := read_json(file)).get("minutes") == minutes:
        return Budget(tuple(known["flops"]), known["tokens_per_param"])
    base = _base(data)
    one = _measure_speed(choose_probe_shapes(base.model)[0], base, 1)
    budget = plan_budget(base, minutes, _count_cores(), one)
    timing = {"one_thread_flops_per_second": one}
    publish_json(file, {"minutes": minutes, **vars(budget), "timing": timing})
    return budget


def _find_final(out: Path, data: Path, budget: Budget, seconds_left: float) -> float:
    """Return the FLOPs of the final run, from the speed of this machine and the time left."""
    file = out / "budget.json"
    known = read_json(file)
    if "final_flops" not in known:
        base = _base(data)
        began = time.monotonic()
        all_cores = _measure_speed(choose_probe_shapes(base.model)[1], base, _count_cores())
        seconds_left -= time.monotonic() - began
        known["final_flops"] = plan_final(budget, seconds_left, all_cores)
        known["timing"]["all_cores_flops_per_second"] = all_cores
        publish_json(file, known)
    return float(known["final_flops"])


def _count_cores() -> int:
    return min(count_cores(), 64)


def _measure_speed(shape: ModelConfig, base: RunConfig, n_threads: int) -> float:
    from ladderlm.bench.step import Workload, measure_speed

    masked = base.data.mask_documents
    work = Workload(shape, base.data.seq_len, base.global_batch_seqs, base.optim, masked)
    return measure_speed(work, n_threads)


def _run_study(out: Path, data: Path, budget: Budget) -> Path:
    """Run the ladder.

    Raises:
        ExecutorError: a run failed; names its log.
    """
    file = out / "study.toml"
    text = STUDY.format(
        data=data.as_posix().replace("\\", "/").replace('"', '\\"'),
        flops=", ".join(f"{f:.3g}" for f in budget.flops),
        tokens_per_param=budget.tokens_per_param,
        aspect_ratio=ASPECT_RATIO,
    )
    publish_text(file, text)
    study = Study.open(file, out / "study")
    if failed := run_study(study, None, _LadderProgress()):
        raise ExecutorError(
            f"{len(failed)} of {len(study.plan().runs)} runs failed",
            "a fit without them could be misleading",
            f"read {failed[0].job.log}, then run the same command again: finished runs are kept",
        )
    show_fits(study)
    return study.folder


class _LadderProgress(StudyProgress):
    """Progress of the study, with one line instead of its plan."""

    def planned(self, study: Study, plan: StudyPlan) -> None:
        """Print a summary of the plan."""
        del study
        _print_stage(4, f"study: {len(plan.runs)} runs, {format_flops(plan.flops)}, one core each")


def _run_final(out: Path, data: Path, flops: float) -> Path:
    """Train the larger model with the baseline's recipe."""
    from ladderlm.run.execute import execute
    from ladderlm.run.resolve import resolve

    base = _base(data)
    shape = choose_final_shape(base, flops)
    per_step = train_flops_per_token(shape, base.data.seq_len) * base.train.global_batch_tokens
    config = replace(
        base,
        model=shape,
        train=replace(base.train, n_steps=max(round(flops / per_step), 20)),
        eval=replace(base.eval, n_samples=3, sample_tokens=128, sample_prompts=PROMPTS),
        execution=replace(base.execution, device="cpu"),
        out=str(out / "best"),
    )
    resolved = resolve(config)
    size = f"dim {shape.dim}, {shape.n_layers} layers"
    n_steps = config.train.n_steps
    _print_stage(5, f"best model: {size}, {n_steps:,} steps, {format_flops(flops)}")
    old = RunDirectory(out / "best")
    same = old.config_file.is_file() and old.config().run_id == resolved.run_id
    with training_bar(n_steps) as observe:
        return execute(config, "auto" if same else "never", observe)


def _finish(out: Path, page: Path, seconds: float) -> None:
    """Print the score of the model, the path of the report and commands to try next."""
    facts = read_json(page.parent / "facts.json")
    best = next(run for run in facts["runs"] if run["run_id"] == facts["best"])
    folder = Path(os.path.normpath(page.parent / best["folder"]))
    rows = dict(facts["data"]["trivial"]["bits_per_byte"])
    rows[f"best model ({folder})"] = best["bits_per_byte"]
    width = max(map(len, rows))
    print(f"\nbits per byte on the validation text ({best['evaluation']['n_documents']} documents)")
    for name, value in sorted(rows.items(), key=lambda item: -item[1]):
        print(f"  {name:<{width}}  {value:.3f}")
    print(f"\nreport: {page}   (made in {format_seconds(seconds)})")
    print("next:")
    print(f'  ladderlm generate {folder} --prompt "def " --num-samples 5')
    print(f"  ladderlm inspect {folder}")
    print(f"  ladderlm quickstart --minutes 30 --out {out}-30")
