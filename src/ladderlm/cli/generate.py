"""`ladderlm generate`: continue prompts, or write from nothing."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ladderlm.cli.options import CheckpointOptions, parse, print_json
from ladderlm.errors import ConfigError, DataError
from ladderlm.generation.config import SamplingConfig
from ladderlm.machine import find_device
from ladderlm.text import visible

if TYPE_CHECKING:
    from ladderlm.run.open import LoadedRun, Written

__all__ = ["DrawingOptions", "run", "say"]

_BATCH = 16  # prompts of a file that are continued together


@dataclass(frozen=True, kw_only=True)
class DrawingOptions(CheckpointOptions, SamplingConfig):
    """How text is sampled: the options that `generate` and `chat` share."""

    max_new_tokens: int = 256
    """Longest continuation, in tokens."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and cache: float32, bfloat16 or float16. The last two are faster, and
    probabilities differ in the third digit."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, or one GPU such as cuda:1."""
    compile: bool = False
    """Run the model with C code compiled for this machine. This is faster and needs a compiler."""

    def sampling(self) -> SamplingConfig:
        """Return the options of the drawing alone."""
        values = {field.name: getattr(self, field.name) for field in fields(SamplingConfig)}
        return SamplingConfig(**values)

    def precision(self) -> Any:
        """Return the torch dtype; None for float32, which is what weights are stored in."""
        import torch

        return None if self.dtype == "float32" else getattr(torch, self.dtype)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(DrawingOptions):
    """Continue a prompt, or write from nothing."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    prompt: str = ""
    """Text to continue, or - for standard input. Default: no text, the model starts from BOS."""
    prompt_file: str | None = None
    """File with the text to continue."""
    lines: bool = False
    """Take each line of --prompt-file or of standard input as a prompt of its own."""
    num_samples: int = 1
    """Number of texts per prompt. The prompt is read once."""
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """End the text before this string. May be given several times."""
    no_heal: bool = False
    """Keep the last token of a prompt, as Meta's code, transformers and llama.cpp do. By default it
    may grow: after 'def ' the space becomes part of the name's token, as in training."""
    echo: bool = False
    """Print the prompt before its continuation. With --logprobs its tokens are scored too."""
    logprobs: bool = False
    """Add tokens and their log-probabilities to --json."""
    stream: bool = False
    """Print the text while it is generated."""
    json: bool = False
    """Print the samples as JSON."""


def run(argv: list[str]) -> int:
    """Generate as asked."""
    options = parse(GenerateOptions, argv, "generate")
    _check_output(options)
    prompts = _read_prompts(options)
    sampling = options.sampling()
    if "" in options.stop:
        raise ConfigError("--stop ''", "it ends every text before it begins", "leave it out")
    device = find_device(options.device)

    from ladderlm.run.open import load

    loaded = load(options.run, options.checkpoint, device)
    if options.stream:
        say(prompts[0] if options.echo else "")
        _write(options, loaded, prompts, sampling, lambda _index, piece: say(piece))
        print()
        return 0
    rows = []
    for at in range(0, len(prompts), _BATCH):
        part = prompts[at : at + _BATCH]
        first = replace(sampling, seed=sampling.seed + at * options.num_samples)
        for i, written in enumerate(_write(options, loaded, part, first)):
            row = _sample_row(
                options, loaded, part[i // options.num_samples], first.seed + i, written
            )
            rows.append(row)
    if options.json:
        print_json(rows)
        return 0
    for i, row in enumerate(rows):
        if len(rows) > 1:
            print(f"--- sample {i + 1}, seed {row['seed']}")
        say((row["prompt"] if options.echo else "") + row["text"])
        print()
    return 0


def say(text: str) -> None:
    """Print a piece of foreign text at once; a terminal obeys nothing in it."""
    print(visible(text) if sys.stdout.isatty() else text, end="", flush=True)


def _check_output(options: GenerateOptions) -> None:
    if options.num_samples < 1 or options.max_new_tokens < 1:
        raise ConfigError("--num-samples and --max-new-tokens are at least 1")
    if options.logprobs and not options.json:
        raise ConfigError("--logprobs without --json", "the text alone has no place for them")
    if options.stream and (options.json or options.lines or options.num_samples > 1):
        raise ConfigError(
            "--stream with --json, --lines or --num-samples",
            "one text is shown while it is written",
            "leave one of them out",
        )


def _write(
    options: GenerateOptions,
    loaded: "LoadedRun",
    prompts: list[str],
    sampling: SamplingConfig,
    show: Callable[[int, str], None] | None = None,
) -> "list[Written]":
    from ladderlm.run.open import Writing, complete

    return complete(
        loaded,
        [prompt for prompt in prompts for _ in range(options.num_samples)],
        options.max_new_tokens,
        sampling,
        Writing(
            stop=options.stop,
            logprobs=options.logprobs,
            prompt_logprobs=options.logprobs and options.echo,
            dtype=options.precision(),
            compiled=options.compile,
            heal=not options.no_heal,
        ),
        show,
    )


def _sample_row(
    options: GenerateOptions, loaded: "LoadedRun", prompt: str, seed: int, written: "Written"
) -> dict[str, Any]:
    done = written.completion
    row = {"prompt": prompt, "text": written.text, "seed": seed, "stopped": done.stopped}
    if options.logprobs:
        ids, scores = done.tokens, done.log_probabilities or []
        if options.echo:
            ids, scores = (
                [*written.prompt_tokens, *ids],
                [
                    *(done.prompt_log_probabilities or []),
                    *scores,
                ],
            )
        words = [loaded.tokenizer.decode([i], continued=True) for i in ids]
        row |= {"tokens": words, "logprobs": scores}
    return row


def _read_prompts(options: GenerateOptions) -> list[str]:
    if options.prompt and options.prompt_file is not None:
        raise ConfigError("--prompt and --prompt-file are both given", "", "keep one of them")
    if not options.lines:
        return [_read_text(options)]
    if options.prompt not in ("", "-"):
        raise ConfigError(
            "--lines with --prompt", "lines come from a file", "use --prompt-file or --prompt -"
        )
    text = _read_text(replace(options, prompt="" if options.prompt_file is not None else "-"))
    lines = list(_split_lines(text))
    if not lines:
        raise DataError("--lines found no line", "there is nothing to continue", "check the input")
    return lines


def _split_lines(text: str) -> Iterator[str]:
    """Cut at newlines alone: str.splitlines also cuts at form feeds and other characters."""
    lines = text.split("\n")
    for line in lines if lines[-1] else lines[:-1]:
        yield line.removesuffix("\r")


def _read_text(options: GenerateOptions) -> str:
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
