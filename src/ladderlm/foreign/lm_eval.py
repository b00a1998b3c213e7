"""Runs as models of lm-eval, the evaluation harness.

Owns the answers to the three requests of its tasks (the likelihood of a continuation, the
likelihood of a text, a generated text) and the call that runs tasks. lm-eval owns the tasks and
their metrics.
"""

import difflib
import logging
from collections.abc import Sequence
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

MAX_NEW_TOKENS = 256  # default of lm-eval
_LOGITS_AT_ONCE = 1 << 25  # entries of one piece of the logits
_PROMPTS_AT_ONCE = 16
_Window = tuple[list[int], int]  # ids, and how many of them at the end are scored


class Request(Protocol):
    """A request of lm-eval: an `Instance` with the strings in `args`."""

    args: tuple[Any, ...]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], int]:
    """Encode a context and its continuation as one text.

    Spaces at the end of the context belong to the continuation, as in lm-eval, because they are
    part of the next word's token. A token that contains the border is scored, so that every byte of
    the continuation is.

    Returns:
        The ids with BOS, and how many of them at the end are scored.
    """
    bare = context.rstrip()
    whole = tokenizer.encode(context + continuation, bos=True)
    before = tokenizer.encode(bare, bos=True)
    alike = (i for i, (a, b) in enumerate(zip(whole, before, strict=False)) if a != b)
    return whole, len(whole) - next(alike, min(len(whole), len(before)))


class Answers:
    """Answers of a run to requests of lm-eval.

    Args:
        run: from `ladderlm.load`.
        batch_tokens: positions of one forward pass; does not change the answers.
    """

    def __init__(self, run: LoadedRun, batch_tokens: int = 8192) -> None:
        self.run, self.batch_tokens = run, batch_tokens
        self.context = run.model.config.max_seq_len

    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Return the log-probability of each (context, continuation), and if it is the likeliest.

        An empty context is BOS alone. A text longer than the model's context is cut from the left;
        a continuation longer than that is scored window by window.
        """

        def windows(request: Request) -> list[_Window]:
            ids, n_scored = encode_pair(self.run.tokenizer, *request.args)
            if 0 < n_scored <= self.context:
                return [(ids[-(self.context + 1) :], n_scored)]
            return self._windows(ids[-(n_scored + 1) :]) if n_scored else []

        return self._sums([windows(request) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Request]) -> list[float]:
        """Return the log-probability of each text after BOS, without EOS.

        A text longer than the context is cut as `ladderlm eval` cuts it, without overlap; the
        last window looks back as far as the model can.
        """
        texts = [self.run.tokenizer.encode(request.args[0], bos=True) for request in requests]
        return [score for score, _ in self._sums([self._windows(ids) for ids in texts])]

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """Continue each (context, options) until one of the strings in `until`, which is removed.

        Decoding is greedy unless the options ask for sampling. A context that leaves no room for
        the new tokens is cut from the left, to at least half of the model's context.

        Raises:
            ConfigError: an unknown option.
        """
        written = [""] * len(requests)
        plans = [(_read_options(request.args[1]), i) for i, request in enumerate(requests)]
        prompts = [self.run.tokenizer.encode(request.args[0], bos=True) for request in requests]
        plans.sort(key=lambda plan: (repr(plan[0]), len(prompts[plan[1]])))
        for options, group in groupby(plans, key=lambda plan: plan[0]):
            places = [i for _, i in group]
            for at in range(0, len(places), _PROMPTS_AT_ONCE):
                part = places[at : at + _PROMPTS_AT_ONCE]
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
        prompts = [ids[-room:] for ids in prompts]
        generate_tokens(make_stepper(self.run.model), prompts, request, watch=watch)
        for text in texts:
            text.finish()
        return [text.text for text in texts]

    def _windows(self, ids: list[int]) -> list[_Window]:
        """Cut ids into windows that score each but the first once."""
        policy = Policy(context=self.context, stride=self.context)
        return [
            (ids[w.start : w.start + w.n_tokens + 1], w.n_tokens - w.n_context)
            for w in make_windows(0, len(ids), policy)
        ]

    def _sums(self, windows: list[list[_Window]]) -> list[tuple[float, bool]]:
        """Return the log-probability of each request's windows, and if all are the likeliest."""
        scores, likeliest = [0.0] * len(windows), [True] * len(windows)
        rest = [(i, window) for i, own in enumerate(windows) for window in own]
        rest.sort(key=lambda entry: -len(entry[1][0]))
        while rest:
            n_rows = max(1, self.batch_tokens // len(rest[0][1][0]))
            part, rest = rest[:n_rows], rest[n_rows:]
            found = self._score([window for _, window in part])
            for (i, _), (score, greedy) in zip(part, found, strict=True):
                scores[i] += score
                likeliest[i] &= greedy
        return list(zip(scores, likeliest, strict=True))

    @torch.inference_mode()
    def _score(self, rows: list[_Window]) -> list[tuple[float, bool]]:
        """Score a window per row. Padding is at the end, and no token attends to later ones."""
        model = self.run.model
        device = model.tok_embeddings.weight.device
        n_longest = max(len(ids) for ids, _ in rows)
        tokens_BT = torch.zeros(len(rows), n_longest - 1, dtype=torch.int64)
        for row, (ids, _) in zip(tokens_BT, rows, strict=True):
            row[: len(ids) - 1] = torch.tensor(ids[:-1])
        hidden_BTD = model.hidden(tokens_BT.to(device))
        scored = zip(hidden_BTD, rows, strict=True)
        hidden_ND = torch.cat([row[len(ids) - 1 - n : len(ids) - 1] for row, (ids, n) in scored])
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
    """Read a task's `generation_kwargs`: stop strings, largest number of new tokens, sampling."""
    if unknown := sorted(set(options) - set(_KNOWN)):
        raise ConfigError(
            f"generation_kwargs must be among {', '.join(_KNOWN)}, got {', '.join(unknown)}",
            fix=f"leave {', '.join(unknown)} out of the task",
        )
    until = options.get("until") or []
    stop = tuple(dict.fromkeys([until] if isinstance(until, str) else until))
    temperature, sampling = float(options.get("temperature") or 0.0), SamplingConfig(temperature=0)
    if options.get("do_sample", temperature > 0):
        limits = {name: options.get(name) for name in ("top_p", "top_k", "min_p")}
        seed = int(options.get("seed", 1))
        sampling = SamplingConfig(temperature=temperature or 1.0, seed=seed, **limits)
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
        names: names of tasks.
        folder: folder of your own task files (YAML), which are then the only tasks. None: the tasks
            of lm-eval, which downloads their data.
        n_documents: limit per task; None: all.

    Returns:
        lm-eval's results: `results`, `n-samples`, `versions` and `configs` among others.

    Raises:
        ConfigError: lm-eval is not installed.
        DataError: there is no such folder or task, or a task cannot be run.
    """
    _require()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        what = f"--task-folder {folder} is not a folder"
        raise DataError(what, fix="name the one with the YAML files")
    manager = TaskManager(
        include_path=None if folder is None else str(folder), include_defaults=folder is None
    )
    if unknown := sorted(set(names) - set(manager.all_tasks)):
        near = ", ".join(difflib.get_close_matches(unknown[0], manager.all_tasks, 5))
        raise DataError(
            f"none of the {len(manager.all_tasks)} tasks of {folder or 'lm-eval'} is called "
            f"{', '.join(unknown)}",
            f"the nearest are {near}" if near else "",
            "name another task, or the folder with its YAML file: --task-folder DIR",
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it logs every default otherwise
    try:
        found: dict[str, Any] = simple_evaluate(
            model=harness_model(Answers(run, batch_tokens)),
            tasks=list(names),
            task_manager=manager,
            limit=n_documents,
            log_samples=False,
        )
    except (OSError, ValueError, KeyError) as error:  # missing data, a broken YAML file
        what = f"lm-eval cannot run {', '.join(names)}: {error}"
        raise DataError(what, fix="correct the task's YAML file") from error
    return found


def _require() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise ConfigError(
            "tasks need lm-eval, which is not installed", fix="run `pip install 'ladderlm[evals]'`"
        ) from None
