"""`ladderlm generate`: continue prompts, or write from nothing."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ladderlm.cli.options import CheckpointOptions, parse, print_json
from ladderlm.config import require
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
    """Options of sampling text that `generate` and `chat` share."""

    max_new_tokens: int = 256
    """Longest continuation, in tokens."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and cache: float32, bfloat16 or float16. The last two are faster, and
    probabilities differ in the third digit."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, or one GPU such as cuda:1."""
    compile: bool = False
    """Run the model with C code compiled for this machine. This is faster and needs a compiler."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_count("--max-new-tokens", self.max_new_tokens)

    def precision(self) -> Any:
        """Return the torch dtype; None for float32, in which weights are stored."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_count("--num-samples", self.num_samples)
        if "" in self.stop:
            raise ConfigError(
                "--stop must not be empty",
                "every text would end before it begins",
                "leave the empty --stop out",
            )
        if self.logprobs and not self.json:
            raise ConfigError("--logprobs needs --json", fix="add --json")
        if self.stream and (self.json or self.lines or self.num_samples > 1):
            raise ConfigError(
                "--stream cannot be combined with --json, --lines or --num-samples",
                fix="leave --stream out",
            )


def run(argv: list[str]) -> int:
    """Generate texts and print them."""
    options = parse(GenerateOptions, argv, "generate")
    prompts = _read_prompts(options)
    device = find_device(options.device)

    from ladderlm.run.open import load

    loaded = load(options.run, options.checkpoint, device)
    if options.stream:
        say(prompts[0] if options.echo else "")
        _write(options, loaded, prompts, lambda _index, piece: say(piece))
        print()
        return 0
    rows = []
    for at in range(0, len(prompts), _BATCH):
        part = [p for p in prompts[at : at + _BATCH] for _ in range(options.num_samples)]
        first = replace(options, seed=options.seed + at * options.num_samples)
        for i, written in enumerate(_write(first, loaded, part)):
            rows.append(_sample_row(options, loaded, part[i], first.seed + i, written))
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
    """Print a piece of generated text at once, without what a terminal would obey."""
    print(visible(text) if sys.stdout.isatty() else text, end="", flush=True)


def _require_count(option: str, value: int) -> None:
    require(option, value, value >= 1, "be at least 1", f"set {option} to 1 or more")


def _write(
    options: GenerateOptions,
    loaded: "LoadedRun",
    prompts: list[str],
    show: Callable[[int, str], None] | None = None,
) -> "list[Written]":
    """Continue each prompt once; prompt i draws with seed + i."""
    from ladderlm.run.open import Writing, complete

    return complete(
        loaded,
        prompts,
        options.max_new_tokens,
        options,
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
            ids = [*written.prompt_tokens, *ids]
            scores = [*(done.prompt_log_probabilities or []), *scores]
        words = [loaded.tokenizer.decode([i], continued=True) for i in ids]
        row |= {"tokens": words, "logprobs": scores}
    return row


def _read_prompts(options: GenerateOptions) -> list[str]:
    if options.prompt and options.prompt_file is not None:
        raise ConfigError(
            "--prompt cannot be combined with --prompt-file", fix="leave one of them out"
        )
    if not options.lines:
        return [_read_text(options)]
    if options.prompt not in ("", "-"):
        raise ConfigError(
            "--lines reads prompts from a file or from standard input, not from --prompt TEXT",
            fix="use --prompt-file FILE or --prompt -",
        )
    text = _read_text(replace(options, prompt="" if options.prompt_file is not None else "-"))
    if not (lines := list(_split_lines(text))):
        raise DataError("--lines found no line to continue", fix="check that the input has text")
    return lines


def _split_lines(text: str) -> Iterator[str]:
    """Split at newlines only; str.splitlines also splits at form feeds and other characters."""
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
            f"the prompt is not UTF-8 at byte {error.start}", fix="convert it to UTF-8"
        ) from error
    except OSError as error:
        raise DataError(
            f"--prompt-file {options.prompt_file}: {error.strerror}", fix="check the path"
        ) from error
    return options.prompt
