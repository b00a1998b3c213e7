"""The training loop.

Owns the order of a run: validate, save, update, log. There is one loop for every device and any
number of processes.
"""

import logging
import time
from contextlib import closing
from typing import Any

import numpy as np
import torch

from ladderlm.data.batch import Batch
from ladderlm.data.stream import RowStream
from ladderlm.errors import Stopped
from ladderlm.eval.meter import score_documents
from ladderlm.eval.subsets import summarise
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.engine import GenerationRequest, generate_tokens
from ladderlm.model.accounting import recomputed_flops_per_token, train_flops_per_token
from ladderlm.optim.groups import set_learning_rate
from ladderlm.optim.schedule import learning_rate_at
from ladderlm.training.ahead import Ahead
from ladderlm.training.guards import check_weights, explain_memory
from ladderlm.training.session import Session
from ladderlm.training.state import TrainState
from ladderlm.training.step import Update, train_step
from ladderlm.training.throughput import peak_memory_bytes, throughput

__all__ = ["run_loop"]

_log = logging.getLogger(__name__)


def run_loop(session: Session, state: TrainState, stream: RowStream) -> None:
    """Train from `state.step` to the end.

    Raises:
        Stopped: a signal came; a checkpoint of the last complete step has been saved.
        TrainingError: a number was not finite; that step was discarded.
    """
    training = _Training(session, state, stream)
    state.model.train()
    with closing(training.batches):
        training.do_what_is_due()
        while state.step < session.config.train.n_steps:
            training.update()
            training.do_what_is_due()


class _Training:
    """The steps of a run, called by `run_loop`."""

    def __init__(self, session: Session, state: TrainState, stream: RowStream) -> None:
        self.session, self.state, self.stream = session, state, stream
        config, seq_len = session.config, session.config.data.seq_len
        per_token = train_flops_per_token(config.model, seq_len)
        self.flops_per_row = per_token * seq_len
        again = recomputed_flops_per_token(config.model, seq_len) * state.model.recompute
        self.recomputed_share = again / per_token
        self.batches = Ahead(self._make_batch, config.train.n_steps)
        self.first_seconds: float | None = None  # of this start; None once it is logged
        self.started = False  # an update has been made by this process

    def _make_batch(self, step: int) -> tuple[Batch, int]:
        """Return this process's rows of a step and the number of targets of all rows."""
        growth, processes = self.session.config.batch_growth, self.session.processes
        first, n_rows = growth.rows_before(step), growth.rows_at(step)
        batch = self.stream.rows(first, n_rows, processes.rank, processes.world_size)
        batch.check_vocabulary(self.state.model.config.vocabulary)
        return batch, self.stream.n_targets(first, n_rows)

    def do_what_is_due(self) -> None:
        """Validate, write texts and save if this step is due for it; then check for signals.

        Raises:
            Stopped: a process has received a signal; the state has been saved.
        """
        session, config, step = self.session, self.session.config, self.state.step
        unscored = step in config.eval_steps and step not in session.validated
        unwritten = bool(session.prompts) and step not in session.sampled
        try:
            if unscored:
                self.validate()
            if step in config.checkpoint_steps:
                if unwritten:
                    self.write_samples()
                if unscored or unwritten or step != session.saved_step:
                    self.save()  # again if a signal had interrupted this step
            elif step in config.checkpoint.keep_steps and step != session.saved_step:
                self.save()
        except Stopped:
            self.save()
            raise
        if number := session.processes.agree(session.flag.number or 0):
            self.save()
            raise Stopped(number)

    def update(self) -> None:
        """Make one update and log it."""
        config, state = self.session.config, self.state
        began = time.monotonic()
        (batch, n_targets), waited = self.batches.take(state.step)
        rate = learning_rate_at(config.optim, state.step, config.train.n_steps)
        set_learning_rate(state.optimizer, rate)
        rank = self.session.processes.rank
        torch.manual_seed(_dropout_seed(config.train.seed, state.step, rank))
        with explain_memory(config.execution.micro_batch_seqs or batch.n_rows, state.step + 1):
            done = train_step(state, batch, n_targets, config)
        if not self.started:
            self.started, self.first_seconds = True, time.monotonic() - self.session.began
        state.step += 1
        if done.skipped:
            _log.warning(
                "step %d: a gradient overflowed fp16; skipped the update and set the loss scale "
                "to %g",
                state.step,
                state.compute.scale,
            )
        if state.average is not None:
            state.average.update(state.step)
        state.n_tokens += n_targets
        seconds = time.monotonic() - began
        state.seconds += seconds
        every, ends = config.train.log_every_steps, (1, config.train.n_steps)
        if state.step % every == 0 or state.step in ends:
            self._log_update(done, rate, seconds, waited)

    def _log_update(self, done: Update, rate: float, seconds: float, waited: float) -> None:
        state, config = self.state, self.session.config
        fields = {"loss": done.loss, "learning_rate": rate, "grad_norm": done.grad_norm}
        if (scale := state.loss_scale) is not None:
            fields |= {"loss_scale": scale.value, "n_skipped": scale.n_skipped}
        n_rows = config.batch_growth.rows_at(state.step - 1)
        flops = self.flops_per_row * n_rows
        again, n_positions = flops * self.recomputed_share, n_rows * config.data.seq_len
        speed = throughput(seconds, n_positions, flops, self.session.peaks, again)
        speed |= {"data_wait_seconds": waited, "aside_seconds": state.aside_seconds}
        speed["peak_memory_bytes"] = peak_memory_bytes(state.device)
        if self.first_seconds is not None:
            speed["seconds_to_first_step"], self.first_seconds = self.first_seconds, None
        self._log_row("train", fields, speed)

    def _log_row(self, kind: str, fields: dict[str, Any], timing: dict[str, float | None]) -> None:
        state, growth = self.state, self.session.config.batch_growth
        row = {
            "kind": kind,
            "step": state.step,
            "n_tokens": state.n_tokens,
            "flops": self.flops_per_row * growth.rows_before(state.step),
            **fields,
            "timing": {"seconds": state.seconds, **timing},
        }
        began = time.monotonic()
        self.session.logs.write(row)
        state.aside_seconds += time.monotonic() - began

    def validate(self) -> None:
        """Score the validation head, log it and update the best step."""
        config, state = self.session.config, self.state
        began = time.monotonic()
        summary = self._score_head()
        policy = {"context": config.eval_policy.context, "stride": config.eval_policy.stride}
        fields = {
            "split": f"val-head-{config.eval.head_tokens}",
            "loss": summary["loss"],
            "bits_per_byte": summary["bits_per_byte"],
            "subsets": {n: row["bits_per_byte"] for n, row in summary["subsets"].items()},
            "policy": policy | {"n_documents": len(self.session.head)},
        }
        if state.average is not None:
            with state.average.in_place():
                found = self._score_head()
            fields["average"] = {name: found[name] for name in ("loss", "bits_per_byte")}
        eligible = state.step in config.checkpoint_steps and np.isfinite(summary["loss"])
        if eligible and (not state.best or summary["loss"] < state.best["loss"]):
            state.best = {"step": state.step, "loss": summary["loss"]}
        state.seconds += time.monotonic() - began
        self._log_row("eval", fields, {"eval_seconds": time.monotonic() - began})

    def _score_head(self) -> dict[str, Any]:
        """Return the scores of the present weights on the validation head."""
        session, policy = self.session, self.session.config.eval_policy
        with self.state.sharding.whole(self.state.model) as model:
            losses = score_documents(
                model, session.validation, session.head, policy, session.scoring
            )
        return summarise(losses, with_interval=False)

    def write_samples(self) -> None:
        """Continue the prompts with the present weights and log the texts."""
        session, state, sampling = self.session, self.state, SamplingConfig()
        tokenizer, prompts = session.tokenizer, session.prompts
        alone = session.processes.world_size == 1
        with state.sharding.whole(state.model) as model:
            if not session.processes.first:
                return
            request = GenerationRequest(
                max_new_tokens=session.config.eval.sample_tokens,
                sampling=sampling,
                stop_ids=frozenset({tokenizer.eos_id, tokenizer.bos_id}),
                first_ids=[prompt.first_ids for prompt in prompts],
                n_ids=tokenizer.vocab_size,
            )
            completions = generate_tokens(
                model,
                [prompt.tokens for prompt in prompts],
                request,
                lambda: alone and session.flag.number is not None,
            )
        session.watch.check()  # half a text is not logged but written when the run resumes
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {
                "step": state.step,
                "index": i,
                "prompt": prompt.text,
                "text": prompt.continuation(tokenizer, completion.tokens),
                "stopped": completion.stopped,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": sampling.seed + i,
            }
            session.logs.write_sample(row)

    def save(self) -> None:
        """Sync the logs, then publish a checkpoint.

        Raises:
            TrainingError: a weight is not finite; nothing is published.
        """
        began = time.monotonic()
        check_weights(self.state.model, self.state.step)
        self.session.logs.sync()
        kept = self.session.config.checkpoint
        self.state.save(self.session.checkpoints, kept.keep, kept.keep_steps)
        self.session.processes.wait()
        self.state.aside_seconds += time.monotonic() - began


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """Return a stream of its own for each step and process, as a pure function of the three."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
