"""A run folder as a model to use.

Owns `load` (weights, tokenizer and config of a checkpoint in one object) and the generation of text
from text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from ladderlm.checkpoint.choose import ChosenCheckpoint
from ladderlm.checkpoint.load import load_weights, read_tensors
from ladderlm.errors import CheckpointError
from ladderlm.generation.chat import ChatPrompt
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.engine import Completion, GenerationRequest, Stepper, generate_tokens
from ladderlm.generation.kernel import make_stepper
from ladderlm.generation.text import TextStream
from ladderlm.model.transformer import Transformer
from ladderlm.run.directory import RunDirectory
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.tokenizer.prompt import encode_prompt
from ladderlm.training.run_config import RunConfig

__all__ = ["LoadedRun", "Writing", "Written", "answer", "complete", "load", "open_chosen"]


class Written(NamedTuple):
    """A generated text and its tokens."""

    text: str  # without the prompt
    completion: Completion
    prompt_tokens: tuple[int, ...]  # BOS and the prompt, without its last token if it was healed


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Options of generating text, apart from sampling."""

    stop: Sequence[
        str
    ] = ()  # strings that end a text; `Completion.tokens` may include their tokens
    logprobs: bool = False  # see `GenerationRequest`
    prompt_logprobs: bool = False
    dtype: torch.dtype | None = None  # of weights and cache while decoding; None: the model's
    compiled: bool = False  # read tokens after the prompts with code compiled for this machine
    heal: bool = True  # the last token of a prompt, see `encode_prompt`


@dataclass(frozen=True)
class LoadedRun:
    """A checkpoint ready to use."""

    model: Transformer  # in evaluation mode; `model(tokens)` returns float32 logits (B, T, V)
    tokenizer: Tokenizer
    config: RunConfig
    step: int  # updates the weights have had


def load(path: Path | str, checkpoint: str | int | None = None, device: str = "cpu") -> LoadedRun:
    """Open a run's checkpoint.

    Args:
        path: run folder.
        checkpoint: a step, "last", "best" or "average" (of the weights over the run, see
            `train.ema_decay`); None: the newest that is not damaged.

    Raises:
        CheckpointError: the folder is not a run, or it lacks the checkpoint, or it is damaged.
    """
    directory = RunDirectory(path)
    return open_chosen(directory, directory.choose(checkpoint), device)


def open_chosen(
    directory: RunDirectory, chosen: ChosenCheckpoint, device: str = "cpu"
) -> LoadedRun:
    """Open a verified checkpoint of a run; see `load`."""
    config = directory.config()
    model = Transformer(config.model)
    load_weights(model, read_tensors(chosen.weights_file), str(chosen.checkpoint.folder))
    model.to(device).eval()
    tokenizer = load_tokenizer(directory.path / "tokenizer")
    if tokenizer.fingerprint != config.data.tokenizer_fingerprint:
        raise CheckpointError(
            f"{directory.path / 'tokenizer'} is not the tokenizer that the run was trained with",
            fix="copy the folder tokenizer/ from the run's data",
        )
    return LoadedRun(model, tokenizer, config, chosen.step)


def complete(
    run: LoadedRun,
    prompts: Sequence[str],
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    writing: Writing | None = None,
    show: Callable[[int, str], None] | None = None,
) -> list[Written]:
    """Continue texts and return the new text of each; an empty prompt is BOS alone.

    A prompt longer than the context is cut at its start. Equal beginnings are read once.

    Args:
        max_new_tokens: limit for each prompt.
        sampling, writing: None: the defaults of `SamplingConfig` and `Writing`.
        show: called with (index of the prompt, piece of text) as the text grows.
    """
    writing = writing or Writing()
    room = run.config.model.max_seq_len - 1
    encoded = [encode_prompt(run.tokenizer, prompt, room, heal=writing.heal) for prompt in prompts]
    texts = [TextStream(run.tokenizer, writing.stop, p.healed, bool(p.text)) for p in encoded]
    request = GenerationRequest(
        max_new_tokens=max_new_tokens,
        sampling=sampling or SamplingConfig(),
        stop_ids=frozenset({run.tokenizer.bos_id, run.tokenizer.eos_id}),
        first_ids=[prompt.first_ids for prompt in encoded],
        n_ids=run.tokenizer.vocab_size,
        logprobs=writing.logprobs,
        prompt_logprobs=writing.prompt_logprobs,
    )
    stepper = make_stepper(run.model, writing.dtype, writing.compiled)
    prompt_ids = [prompt.tokens for prompt in encoded]
    return _write_texts(stepper, prompt_ids, request, texts, show or (lambda _index, _piece: None))


def answer(
    run: LoadedRun,
    prompt: ChatPrompt,
    max_new_tokens: int,
    sampling: SamplingConfig,
    show: Callable[[str], None] = lambda _piece: None,
    dtype: torch.dtype | None = None,
    compiled: bool = False,
) -> Written:
    """Answer a dialogue.

    Args:
        prompt: from `generation.chat.encode_dialog`, and not unsafe.
        show: called with every piece of the answer as it grows.
        dtype, compiled: see `Writing`.
    """
    text = TextStream(run.tokenizer, prompt.stop, continued=True)
    request = GenerationRequest(
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids=prompt.stop_ids,
        n_ids=run.tokenizer.vocab_size,
    )
    stepper = make_stepper(run.model, dtype, compiled)
    return _write_texts(stepper, [prompt.tokens], request, [text], lambda _, s: show(s))[0]


def _write_texts(
    stepper: Stepper,
    prompts: Sequence[tuple[int, ...]],
    request: GenerationRequest,
    texts: Sequence[TextStream],
    show: Callable[[int, str], None],
) -> list[Written]:
    """Generate tokens and show their text as it grows."""

    def watch(index: int, token: int) -> bool:
        if piece := texts[index].add(token):
            show(index, piece)
        return texts[index].stopped

    done = generate_tokens(stepper, prompts, request, watch=watch)
    for index, text in enumerate(texts):
        if rest := text.finish():
            show(index, rest)
    parts = zip(texts, done, prompts, strict=True)
    return [Written(text.text, made, prompt) for text, made, prompt in parts]
