"""Our runs as a model of lm-eval, the evaluation harness.

Owns the three questions that its tasks ask (the chance of a continuation, the chance of a whole
text, a text to be written) and the call that runs tasks. The tasks and their metrics are lm-eval's.
"""

import difflib
import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from ladderlm.errors import ConfigError, DataError
from ladderlm.eval.config import Policy
from ladderlm.eval.meter import make_windows
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.engine import GenerationRequest, generate_tokens
from ladderlm.generation.kernel import make_stepper
from ladderlm.generation.text import TextStream
from ladderlm.model.loss import cap_logits
from ladderlm.model.precision import widen
from ladderlm.run.open import LoadedRun
from ladderlm.tokenizer.base import Tokenizer

__all__ = ["Answers", "encode_pair", "harness_model", "run_tasks"]

MAX_NEW_TOKENS = 256  # where a task does not say; lm-eval's own default
_LOGITS_AT_ONCE = 1 << 25  # entries of one piece of the head's product
_ALIKE = 16  # prompts written together


class Request(Protocol):
    """What lm-eval asks: an `Instance` with the question's strings in `args`."""

    args: tuple[Any, ...]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], int]:
    """Encode a context and what follows it as one text.

    Spaces at the end of the context go to the continuation, as lm-eval has it: they are a part of
    the next word's token. Where the border lies inside a token, that token is scored, so that no
    byte of the continuation is left out.

    Returns:
        The ids with BOS, and how many of them at the end are scored.
    """
    bare = context.rstrip()
    whole = tokenizer.encode(context + continuation, bos=True)
    before = tokenizer.encode(bare, bos=True)
    alike = (i for i, (a, b) in enumerate(zip(whole, before, strict=False)) if a != b)
    return whole, len(whole) - next(alike, min(len(whole), len(before)))


class Answers:
    """Answer lm-eval's questions with a run.

    Args:
        run: from `ladderlm.load`.
        batch_tokens: positions of one forward pass; does not change what is answered.
    """

    def __init__(self, run: LoadedRun, batch_tokens: int = 8192) -> None:
        self.run, self.batch_tokens = run, batch_tokens
        self.context = run.model.config.max_seq_len

    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Return the log-probability of each (context, continuation), and if it is the likeliest.

        An empty context is BOS alone. A text longer than the model's context is cut from the left;
        a continuation longer than that is scored window by window.
        """
        windows, owners = [], []
        for i, request in enumerate(requests):
            ids, n_scored = encode_pair(self.run.tokenizer, *request.args)
            if 0 < n_scored <= self.context:
                windows.append((ids[-(self.context + 1) :], n_scored))
                owners.append(i)
            elif n_scored:
                for window in self._windows(ids[-(n_scored + 1) :]):
                    windows.append(window)
                    owners.append(i)
        return self._sums(windows, owners, len(requests))

    def loglikelihood_rolling(self, requests: Sequence[Request]) -> list[float]:
        """Return the log-probability of each text after BOS; EOS is not asked for.

        A text longer than the context is cut as `ladderlm eval` cuts it, without overlap; the
        last window looks back as far as the model can.
        """
        windows, owners = [], []
        for i, request in enumerate(requests):
            for window in self._windows(self.run.tokenizer.encode(request.args[0], bos=True)):
                windows.append(window)
                owners.append(i)
        return [score for score, _ in self._sums(windows, owners, len(requests))]

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """Write on from each (context, options) until one of the strings in `until`, left out.

        Greedy unless the options ask for sampling. A context keeps its end: all but the room for
        new tokens, at least half of the model's context.

        Raises:
            ConfigError: an option that is not known.
        """
        written = [""] * len(requests)
        plans = [(_read_options(request.args[1]), i) for i, request in enumerate(requests)]
        prompts = [self.run.tokenizer.encode(request.args[0], bos=True) for request in requests]
        plans.sort(key=lambda plan: (repr(plan[0]), len(prompts[plan[1]])))
        for options, group in groupby(plans, key=lambda plan: plan[0]):
            places = [i for _, i in group]
            for at in range(0, len(places), _ALIKE):
                part = places[at : at + _ALIKE]
                texts = self._write([prompts[i] for i in part], *options)
                for i, text in zip(part, texts, strict=True):
                    written[i] = text
        return written

    def _write(
        self,
        prompts: list[list[int]],
        stop: tuple[str, ...],
        max_new_tokens: int,
        sampling: SamplingConfig,
    ) -> list[str]:
        room = max(self.context - max_new_tokens, self.context // 2, 1)
        tokenizer = self.run.tokenizer
        texts = [TextStream(tokenizer, stop, continued=len(ids) > 1) for ids in prompts]

        def watch(index: int, token: int) -> bool:
            texts[index].add(token)
            return texts[index].stopped

        request = GenerationRequest(
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_ids=frozenset({tokenizer.bos_id, tokenizer.eos_id}),
            n_ids=tokenizer.vocab_size,
        )
        stepper = make_stepper(self.run.model)
        generate_tokens(stepper, [ids[-room:] for ids in prompts], request, watch=watch)
        for text in texts:
            text.finish()
        return [text.text for text in texts]

    def _windows(self, ids: list[int]) -> Iterator[tuple[list[int], int]]:
        """Cut ids into windows that score each but the first once."""
        policy = Policy(context=self.context, stride=self.context)
        for window in make_windows(0, len(ids), policy):
            part = ids[window.start : window.start + window.n_tokens + 1]
            yield part, window.n_tokens - window.n_context

    def _sums(
        self, windows: list[tuple[list[int], int]], owners: list[int], n_requests: int
    ) -> list[tuple[float, bool]]:
        """Add up the windows of each request: log-probability, and whether all is the likeliest."""
        scores, likeliest = [0.0] * n_requests, [True] * n_requests
        order = sorted(range(len(windows)), key=lambda i: (-len(windows[i][0]), i))
        at = 0
        while at < len(order):
            n_rows = max(1, self.batch_tokens // len(windows[order[at]][0]))
            part = order[at : at + n_rows]
            at += n_rows
            for i, (score, greedy) in zip(
                part, self._score([windows[i] for i in part]), strict=True
            ):
                scores[owners[i]] += score
                likeliest[owners[i]] &= greedy
        return list(zip(scores, likeliest, strict=True))

    @torch.inference_mode()
    def _score(self, rows: list[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Score the last n ids of each row; rows are padded at their end, where none looks."""
        model = self.run.model
        device = model.tok_embeddings.weight.device
        n_longest = max(len(ids) for ids, _ in rows)
        tokens_BT = torch.zeros(len(rows), n_longest - 1, dtype=torch.int64)
        for row, (ids, _) in zip(tokens_BT, rows, strict=True):
            row[: len(ids) - 1] = torch.tensor(ids[:-1])
        hidden_BTD = model.hidden(tokens_BT.to(device))
        hidden_ND = torch.cat(
            [
                hidden[len(ids) - 1 - n : len(ids) - 1]
                for hidden, (ids, n) in zip(hidden_BTD, rows, strict=True)
            ]
        )
        targets_N = torch.tensor([i for ids, n in rows for i in ids[len(ids) - n :]], device=device)
        head_VD = widen(model.output.weight)
        nats, greedy = [], []
        n_once, softcap = max(1, _LOGITS_AT_ONCE // len(head_VD)), model.config.logit_softcap
        for start in range(0, len(targets_N), n_once):
            piece = slice(start, start + n_once)
            logits_NV = cap_logits(widen(hidden_ND[piece]) @ head_VD.T, softcap)
            nats += F.cross_entropy(logits_NV, targets_N[piece], reduction="none").tolist()
            greedy += (logits_NV.argmax(-1) == targets_N[piece]).tolist()
        found, at = [], 0
        for _, n in rows:
            found.append((-sum(nats[at : at + n]), all(greedy[at : at + n])))
            at += n
        return found


_KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p", "seed")


def _read_options(options: dict[str, Any]) -> tuple[tuple[str, ...], int, SamplingConfig]:
    """Read a task's `generation_kwargs`: stop strings, most new tokens, sampling."""
    if unknown := sorted(set(options) - set(_KNOWN)):
        raise ConfigError(
            f"generation_kwargs: {', '.join(unknown)}",
            f"known are {', '.join(_KNOWN)}",
            "leave it out of the task",
        )
    until = options.get("until") or []
    stop = tuple(dict.fromkeys([until] if isinstance(until, str) else until))
    temperature = float(options.get("temperature") or 0.0)
    if not options.get("do_sample", temperature > 0):
        return stop, int(options.get("max_gen_toks", MAX_NEW_TOKENS)), SamplingConfig(temperature=0)
    sampling = SamplingConfig(
        temperature=temperature or 1.0,
        top_p=options.get("top_p"),
        top_k=options.get("top_k"),
        min_p=options.get("min_p"),
        seed=int(options.get("seed", 1)),
    )
    return stop, int(options.get("max_gen_toks", MAX_NEW_TOKENS)), sampling


def harness_model(answers: Answers) -> Any:
    """Return a run as an `lm_eval.api.model.LM`, for `lm_eval.simple_evaluate` and other code.

    Raises:
        ConfigError: lm-eval is not installed.
    """
    _require()
    from lm_eval.api.model import LM

    class Run(LM):  # type: ignore[misc]
        """A run of ladderlm."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return answers.loglikelihood(requests)

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return answers.loglikelihood_rolling(requests)

        def generate_until(self, requests: list[Any]) -> list[str]:
            return answers.generate_until(requests)

    return Run()


def run_tasks(
    run: LoadedRun,
    names: Sequence[str],
    folder: Path | None = None,
    n_documents: int | None = None,
    batch_tokens: int = 8192,
) -> dict[str, Any]:
    """Run tasks of lm-eval on a run.

    Args:
        names: of tasks.
        folder: with the YAML files of tasks of one's own, which alone are then known; None: those
            that lm-eval brings, whose data it fetches.
        n_documents: of each task, at most; None: all.

    Returns:
        lm-eval's results: `results`, `n-samples`, `versions` and `configs` among others.

    Raises:
        ConfigError: lm-eval is not installed.
        DataError: no such folder or task, or a task that cannot be run.
    """
    _require()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise DataError(
            f"--task-folder {folder} is no folder", "", "name the one with the YAML files"
        )
    manager = TaskManager(
        include_path=None if folder is None else str(folder), include_defaults=folder is None
    )
    if unknown := sorted(set(names) - set(manager.all_tasks)):
        near = ", ".join(difflib.get_close_matches(unknown[0], manager.all_tasks, 5))
        of = f"{len(manager.all_tasks)} tasks of {folder or 'lm-eval'}"
        raise DataError(
            f"no task is called {', '.join(unknown)}",
            f"nearest of the {of}: {near}" if near else f"none of the {of} has a name like it",
            "name another, or the folder with its YAML file: --task-folder DIR",
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it names every default that it takes
    try:
        found: dict[str, Any] = simple_evaluate(
            model=harness_model(Answers(run, batch_tokens)),
            tasks=list(names),
            task_manager=manager,
            limit=n_documents,
            log_samples=False,
        )
    except (OSError, ValueError, KeyError) as error:  # data that is not there, a broken YAML file
        raise DataError(
            f"lm-eval cannot run {', '.join(names)}: {error}", "", "fix the task's YAML file"
        ) from error
    return found


def _require() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise ConfigError(
            "tasks need lm-eval, which is not installed",
            "they are its tasks, with its metrics",
            "run `pip install 'ladderlm[evals]'`",
        ) from None
