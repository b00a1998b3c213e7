"""A run folder as a model to use.

Owns `load`: weights, tokenizer and config of a checkpoint in one object, and text in, text out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ladderlm.checkpoint.layout import list_checkpoints
from ladderlm.checkpoint.load import load_newest, load_state, load_weights
from ladderlm.errors import CheckpointError
from ladderlm.generate.engine import Completion
from ladderlm.generate.engine import generate as generate_tokens
from ladderlm.generate.sampling import SamplingConfig
from ladderlm.model.transformer import Transformer
from ladderlm.run.config import RunConfig
from ladderlm.run.directory import RunDirectory
from ladderlm.tokenizer.base import Tokenizer, load_tokenizer
from ladderlm.tokenizer.prompt import encode_prompt

__all__ = ["LoadedRun", "complete", "load"]


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


def load(path: Path | str, step: int | None = None, device: str = "cpu") -> LoadedRun:
    """Open a run's checkpoint.

    Args:
        path: run folder.
        step: which checkpoint; None: the newest good one.

    Raises:
        CheckpointError: not a run, no checkpoint, no such step, or damaged.
    """
    directory = RunDirectory(path)
    config = directory.config()
    if step is None:
        saved = load_newest(directory.checkpoints, lambda _message: None)
    else:
        steps = {c.step: c for c in list_checkpoints(directory.checkpoints)}
        if step not in steps:
            raise CheckpointError(
                f"{path} has no checkpoint of step {step}",
                f"it has {sorted(steps)}",
                "name one of those, or leave --step out for the newest",
            )
        saved = load_state(steps[step], with_optimizer=False)
    if saved is None:
        raise CheckpointError(
            f"{path} holds no checkpoint yet", "", "let the run go on until its first one"
        )
    model = Transformer(config.model)
    load_weights(model, saved.weights, str(saved.checkpoint.folder))
    model.to(device).eval()
    own = directory.path / "tokenizer"
    tokenizer = load_tokenizer(own)
    if tokenizer.fingerprint != config.data.tokenizer_fingerprint:
        raise CheckpointError(
            f"{own} is not the tokenizer that the run was trained with",
            "its ids would mean other texts",
            "restore the folder from the run's data",
        )
    return LoadedRun(model, tokenizer, config, saved.checkpoint.step)


def complete(
    run: LoadedRun, prompts: Sequence[str], max_new_tokens: int, sampling: SamplingConfig
) -> list[tuple[str, Completion]]:
    """Continue texts; an empty text is the unconditional prompt, BOS alone.

    A prompt longer than the context keeps its end. The last token of a prompt is healed, see
    `encode_prompt`.

    Returns:
        For each prompt the new text and its `Completion`.
    """
    room = run.config.model.max_seq_len - 1
    encoded = [encode_prompt(run.tokenizer, prompt, room) for prompt in prompts]
    stop = frozenset({run.tokenizer.bos_id, run.tokenizer.eos_id})
    with torch.inference_mode():
        done = generate_tokens(
            run.model,
            [prompt.tokens for prompt in encoded],
            max_new_tokens,
            sampling,
            stop,
            first_ids=[prompt.first_ids for prompt in encoded],
            n_ids=run.tokenizer.vocab_size,
        )
    pairs = zip(encoded, done, strict=True)
    return [(prompt.continuation(run.tokenizer, made.tokens), made) for prompt, made in pairs]
