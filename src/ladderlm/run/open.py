"""A run folder as a model to use.

Owns `load`: weights, tokenizer and config of a checkpoint in one object, and text in, text out.
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
from ladderlm.generation.engine import Completion, GenerationRequest, generate_tokens
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
    """A new text and the tokens that it was made of.

    Args:
        text: without the prompt.
        completion: its tokens and their scores.
        prompt_tokens: BOS and the prompt, its last token left out where it was healed.
    """

    text: str
    completion: Completion
    prompt_tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How texts are written, apart from the drawing of tokens.

    Args:
        stop: strings that end a text and are left out of it. The tokens of the last one may
            stand in `Completion.tokens`.
        logprobs, prompt_logprobs: as in `GenerationRequest`.
        dtype: of weights and cache while decoding; None: the model's own.
        compiled: read tokens after the prompts by code compiled for this machine.
        heal: the last token of a prompt, see `encode_prompt`.
    """

    stop: Sequence[str] = ()
    logprobs: bool = False
    prompt_logprobs: bool = False
    dtype: torch.dtype | None = None
    compiled: bool = False
    heal: bool = True


@dataclass(frozen=True)
class LoadedRun:
    """A checkpoint ready to use.

    Args:
        model: in evaluation mode; `model(tokens)` gives float32 logits (B, T, V).
        tokenizer: of its training data.
        config: of its run.
        step: updates it had.
    """

    model: Transformer
    tokenizer: Tokenizer
    config: RunConfig
    step: int


def load(path: Path | str, checkpoint: str | int | None = None, device: str = "cpu") -> LoadedRun:
    """Open a run's checkpoint.

    Args:
        path: run folder.
        checkpoint: a step, "last", "best" or "average" (of the weights over the run, see
            `train.ema_decay`); None: the newest that is not damaged.

    Raises:
        CheckpointError: not a run, no checkpoint, no such one, no average, or damaged.
    """
    directory = RunDirectory(path)
    return open_chosen(directory, directory.choose(checkpoint), device)


def open_chosen(
    directory: RunDirectory, chosen: ChosenCheckpoint, device: str = "cpu"
) -> LoadedRun:
    """Open a verified checkpoint of a run; as `load`."""
    config = directory.config()
    model = Transformer(config.model)
    load_weights(model, read_tensors(chosen.weights_file), str(chosen.checkpoint.folder))
    model.to(device).eval()
    own = directory.path / "tokenizer"
    tokenizer = load_tokenizer(own)
    if tokenizer.fingerprint != config.data.tokenizer_fingerprint:
        raise CheckpointError(
            f"{own} is not the tokenizer that the run was trained with",
            "its ids would mean other texts",
            "restore the folder from the run's data",
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
    """Continue texts; an empty text is the unconditional prompt, BOS alone.

    A prompt longer than the context keeps its end.

    Args:
        prompts: equal ones, and equal beginnings, are read once.
        max_new_tokens: at most this many for each prompt.
        sampling, writing: None: the defaults of `SamplingConfig` and `Writing`.
        show: told (index of the prompt, text) of every piece as soon as it is sure.

    Returns:
        For each prompt the new text and its `Completion`.
    """
    writing = writing or Writing()
    room = run.config.model.max_seq_len - 1
    encoded = [encode_prompt(run.tokenizer, prompt, room, heal=writing.heal) for prompt in prompts]
    texts = [TextStream(run.tokenizer, writing.stop, p.healed, bool(p.text)) for p in encoded]

    def watch(index: int, token: int) -> bool:
        piece = texts[index].add(token)
        if show is not None and piece:
            show(index, piece)
        return texts[index].stopped

    done = generate_tokens(
        make_stepper(run.model, writing.dtype, writing.compiled),
        [prompt.tokens for prompt in encoded],
        GenerationRequest(
            max_new_tokens=max_new_tokens,
            sampling=sampling or SamplingConfig(),
            stop_ids=frozenset({run.tokenizer.bos_id, run.tokenizer.eos_id}),
            first_ids=[prompt.first_ids for prompt in encoded],
            n_ids=run.tokenizer.vocab_size,
            logprobs=writing.logprobs,
            prompt_logprobs=writing.prompt_logprobs,
        ),
        watch=watch,
    )
    for index, text in enumerate(texts):
        rest = text.finish()
        if show is not None and rest:
            show(index, rest)
    parts = zip(texts, done, encoded, strict=True)
    return [Written(text.text, made, prompt.tokens) for text, made, prompt in parts]


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
        prompt: from `generate.chat.encode_dialog`, and not unsafe.
        show: told every piece of the answer as soon as it is sure.
        dtype, compiled: as in `Writing`.
    """
    text = TextStream(run.tokenizer, prompt.stop, continued=True)

    def watch(_index: int, token: int) -> bool:
        if piece := text.add(token):
            show(piece)
        return text.stopped

    (done,) = generate_tokens(
        make_stepper(run.model, dtype, compiled),
        [prompt.tokens],
        GenerationRequest(
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_ids=prompt.stop_ids,
            n_ids=run.tokenizer.vocab_size,
        ),
        watch=watch,
    )
    if rest := text.finish():
        show(rest)
    return Written(text.text, done, prompt.tokens)
