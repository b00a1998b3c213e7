"""Continue prompts with a key/value cache.

Owns the decoding loop over token ids. Text and tokenizers are the caller's business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ladderlm.errors import ConfigError
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.sampling import penalise_repetition, sample_tokens
from ladderlm.model.attention import LayerCache
from ladderlm.model.config import ModelConfig

__all__ = ["Completion", "GenerationRequest", "Stepper", "generate_tokens"]

# Positions whose logits are held at once while a prompt is scored.
_SCORED_POSITIONS = 64


class Stepper(Protocol):
    """What the loop needs of a model: a `Transformer`, or a `Decoder` made from one."""

    config: ModelConfig

    def make_caches(self, batch: int, seq_len: int) -> list[LayerCache]:
        """Allocate empty caches."""
        ...

    def step(
        self, tokens: Tensor, caches: list[LayerCache], start: int, last: bool = False
    ) -> Tensor:
        """Read (B, T) more tokens; give float32 logits of all T positions or the last."""
        ...


@dataclass(frozen=True)
class Completion:
    """What came after one prompt.

    Args:
        tokens: new token ids, the stop token left out.
        stopped: True if a stop token or `watch` ended it, False if the length did.
        log_probabilities: of each new token under the unmodified distribution, nats; None
            unless asked for.
        prompt_log_probabilities: of each token of the prompt given those before it; the first
            has nothing before it and is 0. None unless asked for.
    """

    tokens: list[int]
    stopped: bool
    log_probabilities: list[float] | None = None
    prompt_log_probabilities: list[float] | None = None


@dataclass(eq=False)
class _Row:
    """One text on its way."""

    index: int
    n_prompt: int
    end: int
    generator: torch.Generator
    first_ids: list[int] | None
    ids: list[int]
    scores: list[float] = field(default_factory=lambda: [0.0])  # of ids[0], ids[1] ...
    done: bool = False
    stopped: bool = False

    def writes(self, position: int) -> bool:
        """Say whether this position is to be filled with a drawn token."""
        return not self.done and len(self.ids) == position < self.end


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What is asked for after each of some prompts.

    Args:
        max_new_tokens: at most this many for each prompt.
        sampling: sequence i draws with seed + i.
        stop_ids: ids that end a text.
        first_ids: for each prompt the ids that may come first; None, or nothing at all: any.
        n_ids: ids of the tokenizer; rows of the head past them are never drawn. None: all.
        logprobs: compute log-probabilities of the new tokens.
        prompt_logprobs: compute those of the prompts' tokens too, which costs their logits.
    """

    max_new_tokens: int
    sampling: SamplingConfig
    stop_ids: frozenset[int]
    first_ids: Sequence[Sequence[int] | None] = ()
    n_ids: int | None = None
    logprobs: bool = False
    prompt_logprobs: bool = False


@torch.inference_mode()
def generate_tokens(
    model: Stepper,
    prompts: Sequence[Sequence[int]],
    request: GenerationRequest,
    should_stop: Callable[[], bool] = lambda: False,
    watch: Callable[[int, int], bool] | None = None,
) -> list[Completion]:
    """Continue every prompt until a stop token, `max_new_tokens` or the model's context.

    Prompts of unequal length run together in Meta's way: all are read up to the length of the
    shortest, then one position at a time, where a prompt's own token wins over a drawn one. No
    row is ever padded, so none needs a mask. Each sequence has its own random stream, so its text
    is the same alone and in a batch. Prompts that begin alike are read once.

    Args:
        prompts: token ids, each at least one; one that fills the context gets no new token.
        should_stop: asked before every position; True ends early with what there is.
        watch: told (index of the prompt, token) of every new token; True ends that text after it.

    Raises:
        ConfigError: an empty prompt, or one longer than the context.
    """
    context = model.config.max_seq_len
    rows = []
    for i, prompt in enumerate(prompts):
        _check_prompt(prompt, context)
        end = min(len(prompt) + request.max_new_tokens, context)
        allowed = request.first_ids[i] if i < len(request.first_ids) else None
        stream = torch.Generator().manual_seed(request.sampling.seed + i)
        limit = None if allowed is None else list(allowed)
        rows.append(_Row(i, len(prompt), end, stream, limit, list(prompt)))
    loop = _Decoding(model, request, watch)
    unfinished = [row for row in rows if row.end > row.n_prompt or request.prompt_logprobs]
    if unfinished:
        loop.run(unfinished, should_stop)
    return [
        Completion(
            row.ids[row.n_prompt :],
            row.stopped,
            row.scores[row.n_prompt : len(row.ids)] if request.logprobs else None,
            row.scores[: row.n_prompt] if request.prompt_logprobs else None,
        )
        for row in rows
    ]


def _check_prompt(prompt: Sequence[int], context: int) -> None:
    if not prompt:
        raise ConfigError("an empty prompt", "there is no position to predict from", "add BOS")
    if len(prompt) > context:
        raise ConfigError(
            f"a prompt of {len(prompt)} tokens does not fit the context of {context}",
            "the model has no positions past it",
            f"shorten it to {context - 1} tokens or fewer, which leaves room for an answer",
        )


class _Decoding:
    """The rows of one call, position by position."""

    def __init__(
        self,
        model: Stepper,
        request: GenerationRequest,
        watch: Callable[[int, int], bool] | None,
    ) -> None:
        self.model, self.request, self.watch = model, request, watch

    def run(self, batch: list[_Row], should_stop: Callable[[], bool]) -> None:
        """Continue rows of at least one token each, in place."""
        position = min(row.n_prompt for row in batch)
        if should_stop():
            return
        logits, caches = self._read_prompts(batch, position)
        seen = self._seen(batch, position, logits.shape[-1])
        while True:
            self._advance(batch, position, logits, seen)
            position += 1
            live = [i for i, row in enumerate(batch) if not row.done]
            if not live or should_stop():
                return
            if len(live) * 2 <= len(batch):  # ended rows cost time as long as they are carried
                batch = [batch[i] for i in live]
                caches = _select_rows(caches, torch.tensor(live))
                seen = None if seen is None else seen[live]
            # an ended row has no token here; what it reads is of no account
            new = [[row.ids[position - 1] if len(row.ids) >= position else 0] for row in batch]
            logits = self._step(torch.tensor(new), caches, position - 1)[:, -1]

    def _step(
        self, tokens: Tensor, caches: list[LayerCache], start: int, last: bool = True
    ) -> Tensor:
        device = caches[0].keys.device
        return self.model.step(tokens.to(device), caches, start, last).cpu()

    def _read_prompts(self, batch: list[_Row], n: int) -> tuple[Tensor, list[LayerCache]]:
        """Read the first n tokens of every row; give the logits that follow and the caches."""
        total = max(row.end for row in batch)
        starts = [tuple(row.ids[:n]) for row in batch]
        different = list(dict.fromkeys(starts))
        tokens = torch.tensor(different)
        place = torch.tensor([different.index(start) for start in starts])
        caches = self.model.make_caches(len(tokens), total)
        at = 0
        while self.request.prompt_logprobs and at < n - 1:
            end = min(at + _SCORED_POSITIONS, n - 1)
            logits = self._step(tokens[:, at:end], caches, at, last=False)
            shares = torch.log_softmax(logits.double(), -1)
            following = tokens[:, at + 1 : end + 1].unsqueeze(-1)
            scores = shares.gather(-1, following).squeeze(-1)
            for row, i in zip(batch, place.tolist(), strict=True):
                row.scores += scores[i].tolist()
            at = end
        logits = self._step(tokens[:, at:], caches, at)[:, -1]
        if len(tokens) < len(batch):
            logits, caches = logits[place], _select_rows(caches, place)
        for row in batch:  # not asked for, so as good as any
            row.scores += [0.0] * (n - len(row.scores))
        return logits, caches

    def _seen(self, batch: list[_Row], n: int, vocab_size: int) -> Tensor | None:
        if self.request.sampling.repetition_penalty is None:
            return None
        seen = torch.zeros(len(batch), vocab_size, dtype=torch.bool)
        return seen.scatter_(1, torch.tensor([row.ids[:n] for row in batch]), True)

    def _advance(
        self, batch: list[_Row], position: int, logits: Tensor, seen: Tensor | None
    ) -> None:
        """Put a token at `position` of every row: the prompt's own, or a drawn one."""
        writes = [row.writes(position) for row in batch]
        tokens = self._draw(batch, writes, logits, seen) if any(writes) else [0] * len(batch)
        tokens = [
            row.ids[position] if len(row.ids) > position else token
            for row, token in zip(batch, tokens, strict=True)
        ]
        chosen = torch.tensor(tokens).unsqueeze(-1)
        if seen is not None:
            seen.scatter_(1, chosen, True)
        if self.request.logprobs or self.request.prompt_logprobs:
            shares = torch.log_softmax(logits.double(), -1)
            for row, score in zip(batch, shares.gather(-1, chosen).tolist(), strict=True):
                row.scores += score
        for row, token, new in zip(batch, tokens, writes, strict=True):
            if new:
                self._write(row, token)
            row.done |= position + 1 >= row.end

    def _write(self, row: _Row, token: int) -> None:
        if token in self.request.stop_ids:
            row.done = row.stopped = True
            return
        row.ids.append(token)
        if self.watch is not None and self.watch(row.index, token):
            row.done = row.stopped = True

    def _draw(
        self, batch: list[_Row], writes: list[bool], logits: Tensor, seen: Tensor | None
    ) -> list[int]:
        """Draw a token for every row; only those that write use up their streams."""
        if seen is not None and self.request.sampling.repetition_penalty is not None:
            logits = penalise_repetition(logits, seen, self.request.sampling.repetition_penalty)
        limits = {
            i: row.first_ids
            for i, row in enumerate(batch)
            if writes[i] and row.first_ids is not None and len(row.ids) == row.n_prompt
        }
        n_ids = logits.shape[-1] if self.request.n_ids is None else self.request.n_ids
        if limits or n_ids < logits.shape[-1]:
            allowed = logits.clone()
            allowed[:, n_ids:] = float("-inf")
            for i, ids in limits.items():
                allowed[i] = float("-inf")
                allowed[i, ids] = logits[i, ids]
            logits = allowed
        uniforms = torch.zeros(len(batch), dtype=torch.float64)
        if self.request.sampling.temperature > 0:
            for i, row in enumerate(batch):
                if writes[i]:
                    uniforms[i] = torch.rand((), generator=row.generator, dtype=torch.float64)
        drawn: list[int] = sample_tokens(logits, self.request.sampling, uniforms).tolist()
        return drawn


def _select_rows(caches: list[LayerCache], rows: Tensor) -> list[LayerCache]:
    """Copy the named rows, in this order and as often as they are named."""
    rows = rows.to(caches[0].keys.device)
    return [LayerCache(cache.keys[rows], cache.values[rows]) for cache in caches]
