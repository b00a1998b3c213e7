"""`ladderlm generate`: continue prompts, or write from nothing."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ladderlm.cli.options import parse, print_json, printable
from ladderlm.errors import ConfigError, DataError

__all__ = ["run"]


@dataclass(frozen=True)
class GenerateOptions:
    """Continue a prompt; without one, write from nothing."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    prompt: str = ""
    """Text to continue; - reads standard input. Default: none, the model starts from BOS."""
    prompt_file: str | None = None
    """File whose text is continued."""
    max_new_tokens: int = 256
    """Longest continuation."""
    temperature: float = 0.8
    """0 takes the likeliest token."""
    top_p: float = 0.9
    """Keep the smallest set of likeliest tokens of this mass; 1 keeps all."""
    top_k: int | None = None
    """Keep this many likeliest tokens."""
    seed: int = 1
    """Sample i is drawn with seed + i."""
    num_samples: int = 1
    """How many texts."""
    step: int | None = None
    """Which checkpoint. Default: the newest."""
    echo: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the prompt before its continuation."""
    logprobs: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --json: the tokens and their log-probabilities."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print samples as JSON."""


def run(argv: list[str]) -> int:
    """Generate as asked."""
    options = parse(GenerateOptions, argv, "generate", "Continue a prompt, or write from nothing.")
    if options.num_samples < 1 or options.max_new_tokens < 1:
        raise ConfigError("--num-samples and --max-new-tokens are at least 1")
    if options.logprobs and not options.json:
        raise ConfigError("--logprobs without --json", "the text alone has no place for them")
    prompt = _read_prompt(options)

    from ladderlm.generate.sampling import SamplingConfig
    from ladderlm.run.open import complete, load

    sampling = SamplingConfig(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        seed=options.seed,
    )
    loaded = load(options.run, options.step)
    prompts = [prompt] * options.num_samples
    rows = []
    for i, (text, done) in enumerate(complete(loaded, prompts, options.max_new_tokens, sampling)):
        row = {"prompt": prompt, "text": text, "seed": options.seed + i, "stopped": done.stopped}
        if options.logprobs:
            pieces = [loaded.tokenizer.decode([token]) for token in done.tokens]
            row |= {"tokens": pieces, "logprobs": done.log_probabilities}
        rows.append(row)
    if options.json:
        print_json(rows)
        return 0
    for i, row in enumerate(rows):
        if len(rows) > 1:
            print(f"--- sample {i + 1}, seed {row['seed']}")
        shown = (prompt if options.echo else "") + str(row["text"])
        print(printable(shown) if sys.stdout.isatty() else shown)
    return 0


def _read_prompt(options: GenerateOptions) -> str:
    if options.prompt and options.prompt_file is not None:
        raise ConfigError("--prompt and --prompt-file are both given", "", "keep one of them")
    try:
        if options.prompt == "-":
            return sys.stdin.buffer.read().decode("utf-8") if sys.stdin else ""
        if options.prompt_file is not None:
            return Path(options.prompt_file).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the prompt is not UTF-8 at byte {error.start}", "", "convert it"
        ) from error
    except OSError as error:
        raise DataError(
            f"--prompt-file {options.prompt_file}: {error.strerror}", "", "check the path"
        ) from error
    return options.prompt
