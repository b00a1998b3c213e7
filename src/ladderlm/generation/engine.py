"""Continue prompts with a key/value cache.

Owns the decoding loop over token ids. The caller handles text and tokenizers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ladderlm.config import require
from ladderlm.errors import ConfigError
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.sampling import penalise_repetition, sample_tokens
from ladderlm.model.attention import LayerCache
from ladderlm.model.config import ModelConfig

__all__ = ["Completion", "GenerationRequest", "Stepper", "generate_tokens"]

_SCORED_POSITIONS = 64  # whose logits are held in memory at once while a prompt is scored


class Stepper(Protocol):
    """The part of a model that the loop uses: a `Transformer`, or a `Decoder` made from one."""

    config: ModelConfig

    def make_caches(self, batch: int, seq_len: int) -> list[LayerCache]:
        """Allocate empty caches."""
        ...

    def step(
        self, tokens: Tensor, caches: list[LayerCache], start: int, last: bool = False
    ) -> Tensor:
        """Read (B, T) more tokens and return float32 logits of all T positions or the last."""
        ...


@dataclass(frozen=True)
class Completion:
    """Continuation of one prompt.

    Args:
        tokens: new token ids, without the stop token.
        stopped: True if a stop token or `watch` ended the text, False if its length did.
        log_probabilities: of each new token under the unmodified distribution, in nats; None
            unless requested.
        prompt_log_probabilities: of each token of the prompt given those before it, 0 for the
            first; None unless requested.
    """

    tokens: list[int]
    stopped: bool
    log_probabilities: list[float] | None = None
    prompt_log_probabilities: list[float] | None = None


@dataclass(eq=False)
class _Row:
    """A text that is being generated."""

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
        """Return whether this position is to be filled with a drawn token."""
        return not self.done and len(self.ids) == position < self.end


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """Options of continuing a list of prompts.

    Args:
        max_new_tokens: limit for each prompt.
        sampling: sequence i draws with seed + i.
        stop_ids: ids that end a text.
        first_ids: for each prompt the ids allowed first; None, or an empty sequence: any.
        n_ids: number of the tokenizer's ids; ids from there on are never drawn. None: all.
        logprobs: compute log-probabilities of the new tokens.
        prompt_logprobs: compute those of the prompts' tokens, for which all logits are needed.
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

    Prompts of unequal length are batched as in Meta's code: all are read up to the length of the
    shortest, then one position at a time, where a prompt's own token replaces a drawn one. So no
    row needs padding or a mask. Each sequence has its own random stream, so its text is the same
    alone and in a batch. Prompts with the same beginning are read once.

    Args:
        prompts: token ids; a prompt that fills the context gets no new token.
        should_stop: called before every position; True ends all texts as they are.
        watch: called with (index of the prompt, token) for every new token; True ends that text.

    Raises:
        ConfigError: a prompt is empty or longer than the context.
    """
    context = model.config.max_seq_len
    rows = []
    for i, prompt in enumerate(prompts):
        require("a prompt", "none", bool(prompt), "have at least one token", "begin it with BOS")
        if len(prompt) > context:
            raise ConfigError(
                f"a prompt of {len(prompt)} tokens does not fit the context of {context}",
                fix=f"shorten it to {context - 1} tokens or fewer",
            )
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


@dataclass
class _Decoding:
    """The decoding of one call's rows, position by position."""

    model: Stepper
    request: GenerationRequest
    watch: Callable[[int, int], bool] | None

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
            if len(live) * 2 <= len(batch):  # finished rows cost time while they are in the batch
                batch = [batch[i] for i in live]
                caches = _select_rows(caches, torch.tensor(live))
                seen = None if seen is None else seen[live]
            # a finished row has no token here, so it reads any
            new = [[row.ids[position - 1] if len(row.ids) >= position else 0] for row in batch]
            logits = self._step(torch.tensor(new), caches, position - 1)[:, -1]

    def _step(
        self, tokens: Tensor, caches: list[LayerCache], start: int, last: bool = True
    ) -> Tensor:
        device = caches[0].keys.device
        return self.model.step(tokens.to(device), caches, start, last).cpu()

    def _read_prompts(self, batch: list[_Row], n: int) -> tuple[Tensor, list[LayerCache]]:
        """Read the first n tokens of every row; return the logits after them and the caches."""
        starts = [tuple(row.ids[:n]) for row in batch]
        different = list(dict.fromkeys(starts))
        tokens = torch.tensor(different)
        place = torch.tensor([different.index(start) for start in starts])
        caches = self.model.make_caches(len(tokens), max(row.end for row in batch))
        at = 0
        while self.request.prompt_logprobs and at < n - 1:
            end = min(at + _SCORED_POSITIONS, n - 1)
            logits = self._step(tokens[:, at:end], caches, at, last=False)
            scores = _score(logits, tokens[:, at + 1 : end + 1].unsqueeze(-1)).squeeze(-1)
            for row, i in zip(batch, place.tolist(), strict=True):
                row.scores += scores[i].tolist()
            at = end
        logits = self._step(tokens[:, at:], caches, at)[:, -1]
        if len(tokens) < len(batch):
            logits, caches = logits[place], _select_rows(caches, place)
        for row in batch:
            row.scores += [0.0] * (n - len(row.scores))  # not requested
        return logits, caches

    def _seen(self, batch: list[_Row], n: int, vocab_size: int) -> Tensor | None:
        if self.request.sampling.repetition_penalty is None:
            return None
        seen = torch.zeros(len(batch), vocab_size, dtype=torch.bool)
        return seen.scatter_(1, torch.tensor([row.ids[:n] for row in batch]), True)

    def _advance(
        self, batch: list[_Row], position: int, logits: Tensor, seen: Tensor | None
    ) -> None:
        """Set the token at `position` of every row: the prompt's own, or a drawn one."""
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
            for row, score in zip(batch, _score(logits, chosen).tolist(), strict=True):
                row.scores += score
        for row, token, new in zip(batch, tokens, writes, strict=True):
            if new:
                row.stopped = token in self.request.stop_ids
                if not row.stopped:
                    row.ids.append(token)
                    row.stopped = self.watch is not None and self.watch(row.index, token)
            row.done |= row.stopped or position + 1 >= row.end

    def _draw(
        self, batch: list[_Row], writes: list[bool], logits: Tensor, seen: Tensor | None
    ) -> list[int]:
        """Draw a token for every row; only rows that write advance their streams."""
        sampling = self.request.sampling
        if seen is not None and sampling.repetition_penalty is not None:
            logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
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
        for i, row in enumerate(batch):
            if writes[i] and sampling.temperature > 0:
                uniforms[i] = torch.rand((), generator=row.generator, dtype=torch.float64)
        drawn: list[int] = sample_tokens(logits, sampling, uniforms).tolist()
        return drawn


def _score(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return log-probabilities of tokens (..., 1) under logits (..., V), in float64."""
    return torch.log_softmax(logits.double(), -1).gather(-1, tokens)


def _select_rows(caches: list[LayerCache], rows: Tensor) -> list[LayerCache]:
    """Copy rows by index; an index may occur several times."""
    rows = rows.to(caches[0].keys.device)
    return [LayerCache(cache.keys[rows], cache.values[rows]) for cache in caches]
