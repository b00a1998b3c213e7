"""`ladderlm eval`: what a run makes of a split, document by document."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, print_json, printable, progress_bar
from ladderlm.errors import ConfigError

__all__ = ["run"]


@dataclass(frozen=True)
class EvalOptions:
    """Score documents: every byte of each once."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    data: str | None = None
    """Prepared data. Default: the data of the run."""
    split: str = "val"
    """Which split."""
    max_documents: int = 10_000
    """The first this many documents."""
    context: int | None = None
    """Tokens a window holds. Default: as validated in the run."""
    stride: int | None = None
    """Tokens scored per further window. Default: the context, no overlap."""
    step: int | None = None
    """Which checkpoint. Default: the newest."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the summary."""


def run(argv: list[str]) -> int:
    """Evaluate as asked."""
    options = parse(EvalOptions, argv, "eval", "Score documents of a split.")
    if options.max_documents < 1:
        raise ConfigError(f"--max-documents {options.max_documents}", "it is at least 1")
    import numpy as np

    from ladderlm.data.shards import open_data
    from ladderlm.eval.config import Policy
    from ladderlm.eval.meter import score_documents
    from ladderlm.eval.subsets import save_losses, summarise
    from ladderlm.model.precision import float32_matmul
    from ladderlm.run.machine import settle_matmul
    from ladderlm.run.open import load
    from ladderlm.train.config import ExecutionConfig

    loaded = load(options.run, options.step)
    path = options.data or loaded.config.eval.path or loaded.config.data.path
    if path is None:
        raise ConfigError("no data is named", "the run does not say where it lay", "add --data DIR")
    data = open_data(path)
    if data.tokenizer_fingerprint != loaded.tokenizer.fingerprint:
        raise ConfigError(
            f"{path} was prepared with another tokenizer than {options.run} was trained with",
            "token ids would mean other texts to the model",
            f"prepare the text with --tokenizer {options.run}/tokenizer",
        )
    split = data.split(options.split)
    context = loaded.config.eval_context if options.context is None else options.context
    if context > loaded.config.model.max_seq_len:
        raise ConfigError(
            f"--context {context} is longer than the model's {loaded.config.model.max_seq_len}",
            "the table of rotary angles ends there",
            "choose a shorter one",
        )
    n_documents = min(options.max_documents, split.n_documents)
    stride = context if options.stride is None else options.stride
    policy = Policy(context=context, stride=stride, n_documents=n_documents)
    _, matmul = settle_matmul(ExecutionConfig(device="cpu"))
    with float32_matmul(matmul["setting"]), progress_bar("windows") as bar:
        losses = score_documents(
            loaded.model, split, np.arange(n_documents), policy, progress=lambda n, _: bar(n)
        )
    name = f"{split.fingerprint[:8]}-{split.name}-{policy.name}-step{loaded.step}"
    extra = {"step": loaded.step, "split": split.name, "split_documents": split.n_documents}
    save_losses(Path(options.run) / "evals" / name, losses, policy, extra)
    summary = extra | {"policy": vars(policy)} | summarise(losses)
    if options.json:
        print_json(summary)
    else:
        _describe(summary)
    return 0


def _describe(summary: dict[str, Any]) -> None:
    n_documents, n_all = summary["n_documents"], summary["split_documents"]
    which = "all there are" if n_documents == n_all else f"the first of {n_all:,}"
    policy = summary["policy"]
    low, high = summary["bits_per_byte_95"]
    print(
        f"{summary['split']}, step {summary['step']}: {n_documents:,} documents ({which}), "
        f"{summary['n_bytes']:,} bytes, context {policy['context']}, stride {policy['stride']}"
    )
    print(
        f"  {summary['bits_per_byte']:.4f} bits/byte (95 % {low:.4f} to {high:.4f}), "
        f"{summary['loss']:.4f} nats/token, perplexity {summary['perplexity']:.2f}"
    )
    print(f"  {'subset':<26} {'documents':>9} {'bytes':>11} {'bits/byte':>10} {'nats/token':>11}")
    for name, row in summary["subsets"].items():
        print(
            f"  {printable(name):<26} {row['n_documents']:>9,} {row['n_bytes']:>11,} "
            f"{row['bits_per_byte']:>10.4f} {row['loss']:>11.4f}"
        )
    print(f"  {'mean over subsets':<26} {'':>9} {'':>11} {summary['macro_bits_per_byte']:>10.4f}")
