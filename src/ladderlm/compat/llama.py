"""The interface of facebookresearch/llama on our engine.

Owns Meta's names, arguments and results. Works on CPU and CUDA, merges any number of shards, and
opens every format that `convert` reads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from ladderlm.compat.llama_model import ModelArgs, Transformer, load_model
from ladderlm.config import require
from ladderlm.convert.convert import open_source
from ladderlm.convert.weights import check_vocabulary
from ladderlm.errors import ConfigError
from ladderlm.generation.chat import (
    UNSAFE_ANSWER,
    Dialog,
    Message,
    Role,
    encode_dialog,
    pick_format,
)
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.engine import Completion, GenerationRequest, generate_tokens
from ladderlm.generation.kernel import make_stepper
from ladderlm.machine import find_device, has_bfloat16
from ladderlm.tokenizer.base import Tokenizer as AnyTokenizer
from ladderlm.tokenizer.load import load_tokenizer

__all__ = [
    "ChatPrediction",
    "CompletionPrediction",
    "Dialog",
    "Llama",
    "Message",
    "ModelArgs",
    "Role",
    "Tokenizer",
    "Transformer",
    "sample_top_p",
]


class CompletionPrediction(TypedDict, total=False):
    """A continuation; tokens and logprobs only if requested."""

    generation: str
    tokens: list[str]
    logprobs: list[float]


class ChatPrediction(TypedDict, total=False):
    """An answer; tokens and logprobs only if requested."""

    generation: Message
    tokens: list[str]
    logprobs: list[float]


class Tokenizer:
    """Meta's tokenizer: SentencePiece, tiktoken, or any other that ladderlm reads.

    Args:
        model_path: `tokenizer.model`, `tokenizer.json`, or a folder with one.

    Raises:
        DataError: the tokenizer is missing or damaged.
    """

    def __init__(self, model_path: str) -> None:
        self.inner: AnyTokenizer = load_tokenizer(Path(model_path))
        self.n_words, self.pad_id = self.inner.vocab_size, self.inner.pad_id
        self.bos_id, self.eos_id = self.inner.bos_id, self.inner.eos_id

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        """Return the ids of a text."""
        return self.inner.encode(s, bos=bos, eos=eos)

    def decode(self, t: Sequence[int]) -> str:
        """Return the text of ids."""
        return self.inner.decode(list(t))


class Llama:
    """A model and its tokenizer.

    Args:
        model: in evaluation mode.
        tokenizer: with at most as many tokens as the model has rows.
        seed: seed of the first text; each later text has the next number.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, seed: int = 1) -> None:
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.style = "llama3" if pick_format(tokenizer.inner) == "llama3" else "llama2"
        self._n_drawn = 0

    @staticmethod
    def build(
        ckpt_dir: str,
        tokenizer_path: str,
        max_seq_len: int,
        max_batch_size: int,
        model_parallel_size: int | None = None,
        seed: int = 1,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "Llama":
        """Load a model.

        Args:
            ckpt_dir: Meta's folder with any number of shards, a Hugging Face folder, or a run.
            tokenizer_path: as in `Tokenizer`.
            max_seq_len: longest text, with the prompt.
            max_batch_size: largest number of texts at once.
            model_parallel_size: has no effect; any number of shards is merged.
            seed: determines every sampled text.
            device: None: CUDA if available, else CPU.
            dtype: None: float32 on CPU; on CUDA bfloat16, or float16 if that is not supported.

        Raises:
            CheckpointError: the folder is no model, is damaged or unsafe, or has fewer rows than
                the tokenizer has tokens.
            DataError: the tokenizer cannot be read.
            ConfigError: a number is out of range.
        """
        parallel = 1 if model_parallel_size is None else model_parallel_size
        numbers = {"max_seq_len": max_seq_len, "max_batch_size": max_batch_size}
        for name, number in (numbers | {"model_parallel_size": parallel}).items():
            require(name, number, number >= 1, "be at least 1")
        SamplingConfig(seed=seed)  # checks the seed
        where = find_device(device or "auto", "device")
        if dtype is None:
            half = torch.bfloat16 if has_bfloat16(where) else torch.float16
            dtype = torch.float32 if where == "cpu" else half
        tokenizer = Tokenizer(tokenizer_path)
        source = open_source(Path(ckpt_dir), max_seq_len=max_seq_len)
        check_vocabulary(tokenizer.n_words, Path(tokenizer_path), source.config)
        model = load_model(source, max_seq_len, max_batch_size, where, dtype)
        return Llama(model, tokenizer, seed)

    def generate(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        max_gen_len: int,
        temperature: float = 0.6,
        top_p: float = 0.9,
        logprobs: bool = False,
        echo: bool = False,
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Continue prompts.

        Args:
            prompt_tokens: ids of each prompt, between 1 and max_seq_len.
            max_gen_len: largest number of new tokens of each.
            temperature: 0 takes the likeliest token.
            top_p: keep the likeliest tokens until their mass exceeds this.
            logprobs: return log-probabilities too.
            echo: return the prompt's tokens too; the first has log-probability 0.

        Returns:
            tokens, and log-probabilities or None.

        Raises:
            ConfigError: there are more prompts than max_batch_size, or one is empty or too long.
        """
        stop_ids = frozenset({self.tokenizer.eos_id})
        if self.style == "llama3":
            empty: Dialog = [{"role": "user", "content": ""}]
            stop_ids = encode_dialog(self.tokenizer.inner, empty, "llama3").stop_ids
        sampling = self._sampling(temperature, top_p)
        done = self._run(prompt_tokens, max_gen_len, sampling, stop_ids, logprobs, echo)
        tokens = [
            [*prompt, *made.tokens] if echo else made.tokens
            for prompt, made in zip(prompt_tokens, done, strict=True)
        ]
        if not logprobs:
            return tokens, None
        return tokens, [
            [*(made.prompt_log_probabilities or []), *(made.log_probabilities or [])]
            for made in done
        ]

    def text_completion(
        self,
        prompts: Sequence[str],
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_gen_len: int | None = None,
        logprobs: bool = False,
        echo: bool = False,
    ) -> list[CompletionPrediction]:
        """Continue texts after BOS; arguments as in `generate`.

        Args:
            max_gen_len: None: max_seq_len - 1.
        """
        encoded = [self.tokenizer.encode(text, bos=True, eos=False) for text in prompts]
        limit = self.model.params.max_seq_len - 1 if max_gen_len is None else max_gen_len
        tokens, scores = self.generate(encoded, limit, temperature, top_p, logprobs, echo)
        found: list[CompletionPrediction] = []
        for i, ids in enumerate(tokens):
            found.append({"generation": self.tokenizer.decode(ids)})
            if scores is not None:
                found[-1]["tokens"] = [self.tokenizer.decode([token]) for token in ids]
                found[-1]["logprobs"] = scores[i]
        return found

    def chat_completion(
        self,
        dialogs: Sequence[Dialog],
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_gen_len: int | None = None,
        logprobs: bool = False,
    ) -> list[ChatPrediction]:
        """Answer dialogs; arguments as in `text_completion`.

        In LLaMA 2's format, the answer to a message that contains its tags is a fixed error text.

        Raises:
            ConfigError: roles out of order, or as in `generate`.
        """
        prompts = [encode_dialog(self.tokenizer.inner, dialog, self.style) for dialog in dialogs]
        limit = self.model.params.max_seq_len - 1 if max_gen_len is None else max_gen_len
        safe = [prompt.tokens for prompt in prompts if not prompt.unsafe]
        stop_ids = frozenset().union(*(prompt.stop_ids for prompt in prompts if not prompt.unsafe))
        sampling = self._sampling(temperature, top_p)
        done = iter(self._run(safe, limit, sampling, stop_ids, logprobs, False))
        found: list[ChatPrediction] = []
        for prompt in prompts:
            made = Completion([], False, []) if prompt.unsafe else next(done)
            text = UNSAFE_ANSWER if prompt.unsafe else self.tokenizer.decode(made.tokens)
            found.append({"generation": {"role": "assistant", "content": text}})
            if logprobs:
                found[-1]["tokens"] = [self.tokenizer.decode([token]) for token in made.tokens]
                found[-1]["logprobs"] = made.log_probabilities or []
        return found

    def _sampling(self, temperature: float, top_p: float) -> SamplingConfig:
        return SamplingConfig(temperature=temperature, top_p=top_p, seed=self.seed + self._n_drawn)

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        max_gen_len: int,
        sampling: SamplingConfig,
        stop_ids: frozenset[int],
        logprobs: bool,
        echo: bool,
    ) -> list[Completion]:
        if len(prompts) > self.model.params.max_batch_size:
            raise ConfigError(
                f"{len(prompts)} prompts at once are more than max_batch_size = "
                f"{self.model.params.max_batch_size}",
                fix="build the model with a larger max_batch_size, or pass fewer prompts",
            )
        self._n_drawn += len(prompts)
        request = GenerationRequest(
            max_new_tokens=max_gen_len,
            sampling=sampling,
            stop_ids=stop_ids,
            n_ids=self.tokenizer.n_words,
            logprobs=logprobs,
            prompt_logprobs=logprobs and echo,
        )
        return generate_tokens(make_stepper(self.model), prompts, request)


def sample_top_p(probs: Tensor, p: float) -> Tensor:
    """Sample one token per row from the likeliest tokens whose mass exceeds p.

    Args:
        probs: (B, V), each row summing to 1.
        p: a token is kept if the likelier ones have a mass of at most p; the first always is.

    Returns:
        (B, 1), int64, sampled with PyTorch's default generator.
    """
    ordered, ids = torch.sort(probs, dim=-1, descending=True)
    before = torch.cumsum(ordered, dim=-1) - ordered
    kept = ordered.masked_fill(before > p, 0.0)
    return ids.gather(-1, torch.multinomial(kept / kept.sum(-1, keepdim=True), num_samples=1))
