"""Continue prompts with a key/value cache.

Owns the decoding loop over token ids. Text and tokenizers are the caller's business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladderlm.errors import ConfigError
from ladderlm.generate.sampling import SamplingConfig, sample_tokens
from ladderlm.model.transformer import Transformer

__all__ = ["Completion", "generate"]


@dataclass(frozen=True)
class Completion:
    """What came after one prompt.

    Args:
        tokens: new token ids, the stop token left out.
        log_probabilities: of each new token under the unmodified distribution, nats.
        stopped: True if a stop token ended it, False if the length did.
    """

    tokens: list[int]
    log_probabilities: list[float]
    stopped: bool


@torch.inference_mode()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: SamplingConfig,
    stop_ids: frozenset[int],
    should_stop: Callable[[], bool] = lambda: False,
    first_ids: Sequence[Sequence[int] | None] = (),
    n_ids: int | None = None,
) -> list[Completion]:
    """Continue every prompt until a stop token, `max_new_tokens` or the model's context.

    Prompts of unequal length run together in Meta's way: all are read up to the length of the
    shortest, then one position at a time, where a prompt's own token wins over a drawn one. Each
    sequence has its own random stream, so its text is the same alone and in a batch.

    Args:
        prompts: token ids, each at least one.
        max_new_tokens: at most this many for each prompt.
        sampling: sequence i draws with seed + i.
        stop_ids: ids that end a text.
        should_stop: asked before every position; True ends early with what there is.
        n_ids: ids of the tokenizer; rows of the head past them are never drawn. None: all.
        first_ids: for each prompt the ids that may come first; None, or nothing at all: any.

    Raises:
        ConfigError: an empty prompt, or one that leaves no room in the context.
    """
    context = model.config.max_seq_len
    for prompt in prompts:
        if not prompt:
            raise ConfigError("an empty prompt", "there is no position to predict from", "add BOS")
        if len(prompt) >= context:
            raise ConfigError(
                f"a prompt of {len(prompt)} tokens fills the context of {context}",
                "no position is left to write to",
                f"shorten it to {context - 1} tokens or fewer",
            )
    if not prompts:
        return []
    device = model.tok_embeddings.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ends = torch.clamp(lengths + max_new_tokens, max=context)
    shortest, total = int(lengths.min()), int(ends.max())
    tokens = torch.zeros(len(prompts), total, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    stop = torch.tensor(sorted(stop_ids), dtype=torch.int64)
    generators = [torch.Generator().manual_seed(sampling.seed + i) for i in range(len(prompts))]
    log_probabilities = torch.zeros(len(prompts), total, dtype=torch.float64)
    stopped_at, stopped = ends.clone(), torch.zeros(len(prompts), dtype=torch.bool)
    caches = model.make_caches(len(prompts), total)
    done_until = 0
    for position in range(shortest, total):
        if should_stop():
            stopped_at = torch.clamp(stopped_at, max=position)
            break
        new = tokens[:, done_until:position].to(device)
        logits = model.step(new, caches, done_until)[:, -1].cpu()
        done_until = position
        writing = lengths <= position
        allowed = logits.clone()
        if n_ids is not None:
            allowed[:, n_ids:] = float("-inf")
        for row, ids in enumerate(first_ids):
            if ids is not None and int(lengths[row]) == position:
                allowed[row] = float("-inf")
                allowed[row, list(ids)] = logits[row, list(ids)]
        drawn = sample_tokens(allowed, sampling, _uniforms(generators, writing))
        tokens[:, position] = torch.where(writing, drawn, tokens[:, position])
        chosen = tokens[:, position : position + 1]
        log_probabilities[:, position] = (
            torch.log_softmax(logits.double(), -1).gather(-1, chosen).squeeze(-1)
        )
        hit = writing & torch.isin(tokens[:, position], stop) & (position < stopped_at)
        stopped_at, stopped = torch.where(hit, position, stopped_at), stopped | hit
        if bool((stopped_at <= position + 1).all()):
            break
    return [
        Completion(
            tokens[row, int(lengths[row]) : int(stopped_at[row])].tolist(),
            log_probabilities[row, int(lengths[row]) : int(stopped_at[row])].tolist(),
            bool(stopped[row]),
        )
        for row in range(len(prompts))
    ]


def _uniforms(generators: list[torch.Generator], writing: Tensor) -> Tensor:
    """Draw for the rows that write; the others keep their streams for later."""
    draws = [
        float(torch.rand((), generator=g, dtype=torch.float64)) if w else 0.0
        for g, w in zip(generators, writing.tolist(), strict=True)
    ]
    return torch.tensor(draws, dtype=torch.float64)
