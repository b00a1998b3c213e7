"""`ladderlm quickstart`: everything once, on the text that is already on this machine."""

import math
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ladderlm.cli.options import parse, progress_bar
from ladderlm.cli.study import describe_fits, evaluate_study, open_study
from ladderlm.cli.study_runs import carry_out
from ladderlm.cli.tokenizer import train_tokenizer
from ladderlm.data.local import fetch_local
from ladderlm.data.prepare import PrepareConfig, prepare
from ladderlm.data.shards import open_data
from ladderlm.errors import ConfigError, ExecutorError
from ladderlm.files import publish_json, publish_text, read_json
from ladderlm.machine import count_cores
from ladderlm.model.accounting import train_flops_per_token
from ladderlm.model.config import ModelConfig
from ladderlm.run.directory import RunDirectory
from ladderlm.run.presets import preset
from ladderlm.study.ladder import MAX_MISS, Target, natural_budget, nearest_shape, snap_budgets
from ladderlm.study.plan import plan_study
from ladderlm.study.spec import store_study
from ladderlm.train.run_config import RunConfig
from ladderlm.units import format_bytes, format_count, format_flops, format_seconds

__all__ = ["Budget", "final_shape", "plan_budget", "plan_final", "run"]

VOCAB_SIZE = 2048
TOKENIZER_BYTES = 16_000_000
N_RUNGS, SPAN, ASPECT_RATIO = 4, 10.5, 32.0
TOKENS_PER_PARAM = 8.0  # of the ladder, as far as the time allows; about the best at 5e11 FLOPs
# Of the final run, whose cost is time: wide layers and heads make better use of a core than those
# of the ladder, so fewer tokens for more parameters; about the best at 8e12 FLOPs on two cores.
FINAL_TOKENS_PER_PARAM, FINAL_HEAD_DIMS, FINAL_PROBE_DIM = 5.0, (32, 16, 8), 96
LADDER_SHARE = 0.36  # of --minutes; what is left after it goes to the final run and the report
REPORT_SECONDS = 15.0  # the final evaluation and the page
RUN_OVERHEAD_SECONDS = 5.0  # start of a process and the final evaluation
PROMPTS = ("def ", "import numpy as np\n", "class ", "# ")
ARM_RUNS = (2, 2, 1, 1)  # seeds of each rung

STUDY = """\
name = "swiglu-vs-gelu"
question = "Is SwiGLU worth its third matrix at equal compute?"
rationale = "LLaMA uses SwiGLU with three matrices of 8/3 dim, where GPT-2 had GELU with two of \
4 dim: equal parameters, one more product and a gate. Shazeer (2020) saw lower loss at equal \
size; the question is what that is worth in compute at the scale of this ladder, and whether it \
grows or shrinks along it."

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
    """Local corpus -> tokenizer -> shards -> small ladder of two arms -> best model -> report."""

    out: str = "quickstart"
    """Folder of everything that is made. What is there already is not made again."""
    minutes: float = 5.0
    """About how long all of it may take."""


@dataclass(frozen=True)
class Budget:
    """What the time is spent on.

    Args:
        flops: rungs of the ladder.
        tokens_per_param: of the ladder.
    """

    flops: tuple[float, ...]
    tokens_per_param: float


def run(argv: list[str]) -> int:
    """Do all of it."""
    options = parse(QuickstartOptions, argv, "quickstart", "Everything once, on local text.")
    if not 0.5 <= options.minutes <= 10_000:
        raise ConfigError(
            f"--minutes {options.minutes:g}", "it lies between 0.5 and 10000", "5 is the default"
        )
    began = time.monotonic()
    out = Path(options.out)
    data = _make_data(out)
    budget = _find_budget(out, data, options.minutes)
    study_folder = _run_study(out, data, budget)
    seconds_left = 60 * options.minutes - (time.monotonic() - began)
    best = _run_final(out, data, _find_final(out, data, budget, seconds_left))
    _say(6, "writing the report")
    from ladderlm.report.render import write_report

    page = write_report(out / "report", [best], [study_folder])
    _finish(out, page, time.monotonic() - began)
    return 0


def _say(stage: int, text: str) -> None:
    print(f"[{stage}/6] {text}", file=sys.stderr, flush=True)


def _make_data(out: Path) -> Path:
    """Fetch, train the tokenizer and prepare; finished parts are kept."""
    corpus = fetch_local(out / "corpus")
    documents = sum(split["n_documents"] for split in corpus["splits"].values())
    size = format_bytes(corpus["n_bytes"])
    _say(1, f"corpus: {documents:,} documents, {size} of text found on this machine")
    record = out / "tokenizer" / "ladderlm.json"
    if not record.is_file() or read_json(record).get("vocab_size") != VOCAB_SIZE:
        source = str(out / "corpus" / "train.jsonl.zst")
        train_tokenizer((source,), VOCAB_SIZE, out / "tokenizer", TOKENIZER_BYTES)
    _say(2, f"tokenizer: {VOCAB_SIZE:,} tokens")
    config = PrepareConfig(
        sources=(str(out / "corpus"),),
        tokenizer=str(out / "tokenizer"),
        out=str(out / "data"),
    )
    with progress_bar("documents") as bar:
        manifest = prepare(config, lambda split, n: bar(n, split))
    counts = {name: split["n_tokens"] for name, split in manifest["splits"].items()}
    shown = ", ".join(f"{name} {format_count(n)} tokens" for name, n in counts.items())
    _say(3, f"data: {shown}, every file with its hash")
    return out / "data"


def _base(data: Path) -> RunConfig:
    config = preset("llama")
    vocab_size = open_data(data).vocab_size
    return replace(
        config,
        model=replace(config.model, vocab_size=vocab_size),
        data=replace(config.data, path=str(data)),
    )


def _find_budget(out: Path, data: Path, minutes: float) -> Budget:
    """Measure this machine once and share out the time; a later start keeps to what was planned."""
    file = out / "budget.json"
    if file.is_file():
        known = read_json(file)
        if known.get("minutes") == minutes:
            return Budget(tuple(known["flops"]), known["tokens_per_param"])
    base = _base(data)
    one = measure_speed(replace(base.model, dim=32, n_layers=1, n_heads=4), base, 1)
    budget = plan_budget(base, minutes, _count_cores(), one)
    timing = {"one_thread_flops_per_second": one}
    publish_json(file, {"minutes": minutes, **vars(budget), "timing": timing})
    return budget


def _find_final(out: Path, data: Path, budget: Budget, seconds_left: float) -> float:
    """Give the FLOPs of the final run: what the machine does now, for the time that is left."""
    file = out / "budget.json"
    known = read_json(file)
    if "final_flops" not in known:
        base = _base(data)
        began = time.monotonic()
        probe = replace(
            base.model, dim=FINAL_PROBE_DIM, n_heads=FINAL_PROBE_DIM // FINAL_HEAD_DIMS[0]
        )
        all_cores = measure_speed(probe, base, _count_cores())
        seconds_left -= time.monotonic() - began
        known["final_flops"] = plan_final(budget, seconds_left, all_cores)
        known["timing"]["all_cores_flops_per_second"] = all_cores
        publish_json(file, known)
    return float(known["final_flops"])


def _count_cores() -> int:
    return min(count_cores(), 64)


def measure_speed(model: ModelConfig, base: RunConfig, n_threads: int) -> float:
    """Give the FLOPs per second of training steps of a shape, over about one second."""
    import torch

    from ladderlm.data.stream import RowStream
    from ladderlm.dist import Processes
    from ladderlm.model.init import init_weights
    from ladderlm.model.precision import float32_matmul
    from ladderlm.model.transformer import Transformer
    from ladderlm.optim.groups import build_optimizer
    from ladderlm.run.machine import settle_matmul
    from ladderlm.train.step import train_step

    torch.set_num_threads(n_threads)
    _, matmul = settle_matmul(replace(base.execution, device="cpu"))
    data = open_data(base.data.path or "")
    stream = RowStream(data.split(base.data.split), base.data, data.bos_id)
    network = Transformer(model)
    init_weights(network, 1)
    optimizer = build_optimizer(network, base.optim)
    seconds: list[float] = []
    while sum(seconds[1:]) < 1.0 or len(seconds) < 4:
        began = time.monotonic()
        batch = stream.rows(len(seconds) * base.global_batch_seqs, base.global_batch_seqs)
        with float32_matmul(matmul["setting"]):
            train_step(
                network,
                optimizer,
                batch,
                batch.n_targets,
                step=1,
                micro_batch_seqs=base.global_batch_seqs,
                mask_documents=True,
                grad_clip=1.0,
                processes=Processes(),
            )
        seconds.append(time.monotonic() - began)
    middle = sorted(seconds[1:])[len(seconds[1:]) // 2]
    per_token = train_flops_per_token(model, base.data.seq_len)
    return per_token * base.train.global_batch_tokens / middle


def plan_budget(base: RunConfig, minutes: float, n_cores: int, one_thread: float) -> Budget:
    """Plan the ladder for its share of the time.

    Args:
        one_thread: measured training FLOPs per second.
    """
    n_runs = 2 * sum(ARM_RUNS)
    n_at_once = min(n_cores, n_runs)
    waiting = RUN_OVERHEAD_SECONDS * n_runs / n_at_once
    seconds = max(60 * minutes * LADDER_SHARE - waiting, 5.0)
    total = seconds * n_at_once * one_thread
    shape_of_ladder = [SPAN ** (k / (N_RUNGS - 1)) for k in range(N_RUNGS)]
    units = 2 * sum(n * f for n, f in zip(ARM_RUNS, shape_of_ladder, strict=True))
    lowest = total / units
    head = base.model.head_dim
    small = replace(base.model, dim=2 * head, n_layers=1, n_heads=2)
    smallest = natural_budget(small, TOKENS_PER_PARAM, base.data.seq_len)
    tokens_per_param = TOKENS_PER_PARAM
    while tokens_per_param > 0.25 and lowest < 0.8 * smallest * tokens_per_param / TOKENS_PER_PARAM:
        tokens_per_param /= 2**0.5
    tokens_per_param = float(f"{tokens_per_param:.2g}")
    flops = snap_budgets(
        max(lowest, natural_budget(small, tokens_per_param, base.data.seq_len)),
        N_RUNGS,
        SPAN,
        tokens_per_param,
        base.model,
        base.data.seq_len,
        ASPECT_RATIO,
    )
    return Budget(flops, tokens_per_param)


def plan_final(budget: Budget, seconds_left: float, all_cores: float) -> float:
    """Give the FLOPs of the final run, one and a half times the top rung or more.

    Args:
        seconds_left: for it and the report.
        all_cores: measured training FLOPs per second.
    """
    return max((seconds_left - REPORT_SECONDS) * all_cores, 1.5 * budget.flops[-1])


def final_shape(base: RunConfig, flops: float) -> ModelConfig:
    """Give the shape of the final run: the widest heads that leave a shape of the right size."""
    seq_len, target = base.data.seq_len, Target(FINAL_TOKENS_PER_PARAM)
    tried = []
    for head_dim in FINAL_HEAD_DIMS:
        model = replace(base.model, n_heads=base.model.dim // head_dim)
        shape, miss = nearest_shape(flops, target, model, seq_len, ASPECT_RATIO)
        if miss <= math.log(MAX_MISS):
            return shape
        tried.append((miss, shape))
    return min(tried, key=lambda pair: pair[0])[1]


def _run_study(out: Path, data: Path, budget: Budget) -> Path:
    """Run the ladder; a failed run ends the quickstart with the place of its log."""
    file = out / "study.toml"
    text = STUDY.format(
        data=data.as_posix().replace("\\", "/").replace('"', '\\"'),
        flops=", ".join(f"{f:.3g}" for f in budget.flops),
        tokens_per_param=budget.tokens_per_param,
        aspect_ratio=ASPECT_RATIO,
    )
    publish_text(file, text)
    spec, folder, pool = open_study(str(file), str(out / "study"), None)
    plan = plan_study(spec, pool)
    store_study(folder, file, spec)
    _say(4, f"study: {len(plan.runs)} runs, {format_flops(plan.flops)}, one core each")
    plan, failed = carry_out(partial(plan_study, spec, pool), folder, pool)
    if failed:
        raise ExecutorError(
            f"{len(failed)} of {len(plan.runs)} runs failed",
            "a ladder with holes gives no honest fit",
            f"read {failed[0].job.log}, then run the same again: finished runs are kept",
        )
    describe_fits(evaluate_study(plan, folder, pool))
    return folder


def _run_final(out: Path, data: Path, flops: float) -> Path:
    """Train the larger model with the baseline's recipe."""
    from ladderlm.run.execute import execute
    from ladderlm.run.resolve import resolve

    base = _base(data)
    shape = final_shape(base, flops)
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
    _say(5, f"best model: {size}, {n_steps:,} steps, {format_flops(flops)}")
    old = RunDirectory(out / "best")
    same = old.config_file.is_file() and old.config().run_id == resolved.run_id
    with progress_bar("steps", config.train.n_steps) as bar:

        def observe(row: dict[str, Any]) -> None:
            bits = f" {row['bits_per_byte']:.3f} bits/byte" if "bits_per_byte" in row else ""
            bar(row["step"], f"{row['kind']} loss {row['loss']:.3f}{bits}")

        return execute(config, "auto" if same else "never", observe)


def _finish(out: Path, page: Path, seconds: float) -> None:
    """Print where the report is, how good the model is, and what to try next."""
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
