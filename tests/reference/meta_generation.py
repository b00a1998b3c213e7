"""Generation as Meta's code does it, without a cache: the slow twin of the engine."""

from collections.abc import Sequence

import torch

from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.sampling import sample_tokens
from ladderlm.model.transformer import Transformer

__all__ = ["generate_as_meta"]


def generate_as_meta(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_gen_len: int,
    sampling: SamplingConfig,
    eos_id: int,
) -> list[tuple[list[int], list[float], list[float]]]:
    """Fill one right-padded matrix, column by column from the end of the shortest prompt.

    Row i draws from the stream of seed + i, only where it really writes: the one thing that
    differs from Meta's code, whose rows share a stream.

    Returns:
        for each prompt: new tokens, their log-probabilities, those of the prompt's tokens.
    """
    longest = max(map(len, prompts))
    total = min(model.config.max_seq_len, max_gen_len + longest)
    tokens = torch.full((len(prompts), total), -1)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    is_prompt = tokens != -1
    reached_end = torch.zeros(len(prompts), dtype=torch.bool)
    streams = [torch.Generator().manual_seed(sampling.seed + i) for i in range(len(prompts))]
    for column in range(min(map(len, prompts)), total):
        with torch.no_grad():
            logits = model(tokens[:, :column].clamp(min=0))[:, -1]
        for row, stream in enumerate(streams):
            if is_prompt[row, column]:
                continue
            uniform = torch.rand((), generator=stream, dtype=torch.float64).view(1)
            tokens[row, column] = sample_tokens(logits[row : row + 1], sampling, uniform)
            reached_end[row] |= tokens[row, column] == eos_id
        if reached_end.all():
            break
    made = []
    for row, prompt in enumerate(prompts):
        ids = tokens[row].tolist()[: len(prompt) + max_gen_len]
        with torch.no_grad():
            shares = torch.log_softmax(model(tokens[row : row + 1].clamp(min=0))[0].double(), -1)
        scores = [0.0] + [float(shares[i - 1, ids[i]]) for i in range(1, len(ids))]
        new = ids[len(prompt) :]
        new = new[: new.index(eos_id)] if eos_id in new else new
        n = len(prompt)
        made.append((new, scores[n : n + len(new)], scores[:n]))
    return made
