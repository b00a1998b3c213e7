"""The training loop.

Owns the order of things in a run: validate, save, update, log. There is one loop for every
device and any number of processes.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ladderlm.data.batch import Batch
from ladderlm.data.shards import Split
from ladderlm.data.stream import RowStream
from ladderlm.dist import Processes
from ladderlm.errors import Stopped
from ladderlm.eval.config import Policy
from ladderlm.eval.meter import Scoring, head_documents, score_documents
from ladderlm.eval.subsets import summarise
from ladderlm.files import AppendLog
from ladderlm.generate.engine import generate
from ladderlm.generate.sampling import SamplingConfig
from ladderlm.model.accounting import recomputed_flops_per_token, train_flops_per_token
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import set_learning_rate
from ladderlm.optim.schedule import learning_rate_at
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.tokenizer.prompt import EncodedPrompt
from ladderlm.train.ahead import Ahead
from ladderlm.train.config import BatchGrowth
from ladderlm.train.guards import SignalFlag, check_weights, explain_memory
from ladderlm.train.state import TrainState
from ladderlm.train.step import train_step
from ladderlm.train.throughput import Peaks, peak_memory_bytes, throughput
from ladderlm.watch import UNWATCHED, Watch

__all__ = ["LoopPlan", "run_loop"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopPlan:
    """What the loop needs to know beside the state; all of it fixed before the run starts.

    Args:
        n_steps, growth, seq_len, seed: length, rows of each update and randomness.
        log_every_steps: the first and the last step are always logged.
        optim: for the schedule and clipping.
        z_loss: as in `sum_head_nats`.
        micro_batch_seqs, mask_documents: as in `train_step`.
        validation: split that the head is taken from.
        head_name, head_tokens, n_documents: which head.
        policy: windows of validation.
        eval_steps: after which steps the head is scored.
        checkpoint_steps: after which steps the state is saved.
        keep: newest checkpoints to keep.
        keep_steps: after which steps the state is saved and kept besides.
        prompts, sample_tokens: texts written at each checkpoint.
        tokenizer: of the data, to write the samples.
        stop_ids: ids that end a sample.
        peaks: what the speed of a step is held against.
        began: monotonic seconds when this process began to open the run.
    """

    n_steps: int
    growth: BatchGrowth
    seq_len: int
    seed: int
    log_every_steps: int
    optim: OptimConfig
    z_loss: float | None
    micro_batch_seqs: int
    mask_documents: bool
    validation: Split
    head_name: str
    head_tokens: int
    n_documents: int
    policy: Policy
    eval_steps: frozenset[int]
    checkpoint_steps: frozenset[int]
    keep: int
    keep_steps: frozenset[int]
    prompts: tuple[EncodedPrompt, ...]
    sample_tokens: int
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    peaks: Peaks
    began: float


class _Loop:
    """The loop's moving parts; `run_loop` is its only user."""

    def __init__(
        self,
        plan: LoopPlan,
        state: TrainState,
        stream: RowStream,
        metrics: AppendLog,
        samples: AppendLog,
        checkpoints: Path,
        processes: Processes,
        flag: SignalFlag,
        observe: Callable[[dict[str, Any]], None],
    ) -> None:
        self.plan, self.state, self.stream = plan, state, stream
        self.metrics, self.samples, self.checkpoints = metrics, samples, checkpoints
        self.processes, self.flag, self.observe = processes, flag, observe
        config = state.model.config
        self.flops_per_row = train_flops_per_token(config, plan.seq_len) * plan.seq_len
        again = recomputed_flops_per_token(config, plan.seq_len) * state.model.recompute
        self.recomputed_share = again / train_flops_per_token(config, plan.seq_len)
        self.head = head_documents(plan.validation, plan.n_documents, plan.head_tokens)
        self.batches = Ahead(self._make_batch, plan.n_steps)
        self.first_seconds: float | None = None  # of this start; None once it is logged
        self.started = False  # an update has been made by this process

    def _make_batch(self, step: int) -> tuple[Batch, int]:
        """Give this process's rows of a step, and the targets of all its rows."""
        first, n_rows = self.plan.growth.rows_before(step), self.plan.growth.rows_at(step)
        rank, world_size = self.processes.rank, self.processes.world_size
        batch = self.stream.rows(first, n_rows, rank, world_size)
        batch.check_vocabulary(self.state.model.config.vocabulary)
        return batch, self.stream.n_targets(first, n_rows)

    def update(self) -> None:
        """Make one update and log it."""
        plan, state = self.plan, self.state
        began = time.monotonic()
        (batch, n_targets), waited = self.batches.take(state.step)
        n_rows = plan.growth.rows_at(state.step)
        rate = learning_rate_at(plan.optim, state.step, plan.n_steps)
        set_learning_rate(state.optimizer, rate)
        torch.manual_seed(_dropout_seed(plan.seed, state.step, self.processes.rank))
        with explain_memory(plan.micro_batch_seqs, state.step + 1):
            done = train_step(
                state.model,
                state.optimizer,
                batch,
                n_targets,
                step=state.step + 1,
                micro_batch_seqs=plan.micro_batch_seqs,
                mask_documents=plan.mask_documents,
                grad_clip=plan.optim.grad_clip,
                processes=self.processes,
                compute=state.compute,
                z_loss=plan.z_loss,
            )
        if not self.started:
            self.started, self.first_seconds = True, time.monotonic() - plan.began
        state.step += 1
        if done.skipped:
            _log.warning(
                "step %d: a gradient overflowed fp16, the update is skipped; the loss is scaled "
                "by %g from now on",
                state.step,
                state.compute.scale,
            )
        if state.average is not None:
            state.average.update(state.step)
        state.n_tokens += n_targets
        seconds = time.monotonic() - began
        state.seconds += seconds
        if state.step % plan.log_every_steps == 0 or state.step in (1, plan.n_steps):
            fields: dict[str, Any] = {"loss": done.loss, "learning_rate": rate}
            fields["grad_norm"] = done.grad_norm
            if (scale := state.loss_scale) is not None:
                fields |= {"loss_scale": scale.value, "n_skipped": scale.n_skipped}
            flops = self.flops_per_row * n_rows
            again = flops * self.recomputed_share
            speed = throughput(seconds, n_rows * plan.seq_len, flops, plan.peaks, again)
            speed["data_wait_seconds"] = waited
            speed["aside_seconds"] = state.aside_seconds
            speed["peak_memory_bytes"] = peak_memory_bytes(state.device)
            if self.first_seconds is not None:
                speed["seconds_to_first_step"], self.first_seconds = self.first_seconds, None
            self._log("train", fields, speed)

    def _log(self, kind: str, fields: dict[str, Any], timing: dict[str, float | None]) -> None:
        state = self.state
        row = {
            "kind": kind,
            "step": state.step,
            "n_tokens": state.n_tokens,
            "flops": self.flops_per_row * self.plan.growth.rows_before(state.step),
            **fields,
            "timing": {"seconds": state.seconds, **timing},
        }
        if self.processes.first:
            began = time.monotonic()
            self.metrics.write(row)
            self.observe(row)
            self.state.aside_seconds += time.monotonic() - began

    def validate(self) -> None:
        """Score the head and note whether it is the best so far."""
        plan, state = self.plan, self.state
        began = time.monotonic()
        summary = self._score_head()
        policy = {"context": plan.policy.context, "stride": plan.policy.stride}
        fields = {
            "split": plan.head_name,
            "loss": summary["loss"],
            "bits_per_byte": summary["bits_per_byte"],
            "subsets": {n: row["bits_per_byte"] for n, row in summary["subsets"].items()},
            "policy": policy | {"n_documents": len(self.head)},
        }
        if state.average is not None:
            with state.average.in_place():
                found = self._score_head()
            fields["average"] = {name: found[name] for name in ("loss", "bits_per_byte")}
        eligible = state.step in plan.checkpoint_steps and np.isfinite(summary["loss"])
        if eligible and (not state.best or summary["loss"] < state.best["loss"]):
            state.best = {"step": state.step, "loss": summary["loss"]}
        state.seconds += time.monotonic() - began
        self._log("eval", fields, {"eval_seconds": time.monotonic() - began})

    def _score_head(self) -> dict[str, Any]:
        """Sum up what the model, as it stands, makes of the head."""
        alone = self.processes.world_size == 1
        with self.state.sharding.whole(self.state.model) as model:
            how = Scoring(
                processes=self.processes, watch=Watch(self.flag.check) if alone else UNWATCHED
            )
            validation, policy = self.plan.validation, self.plan.policy
            losses = score_documents(model, validation, self.head, policy, how)
        return summarise(losses, with_interval=False)

    def write_samples(self) -> None:
        """Continue the prompts from the weights as they are."""
        plan, state = self.plan, self.state
        if not plan.prompts:
            return
        alone = self.processes.world_size == 1
        sampling = SamplingConfig(temperature=0.8, top_p=0.9, seed=1)
        with state.sharding.whole(state.model) as model:
            if not self.processes.first:
                return
            completions = generate(
                model,
                [prompt.tokens for prompt in plan.prompts],
                plan.sample_tokens,
                sampling,
                plan.stop_ids,
                lambda: alone and self.flag.number is not None,
                [prompt.first_ids for prompt in plan.prompts],
                plan.tokenizer.vocab_size,
            )
        if alone:
            self.flag.check()  # half a text is not logged: it is written when the run goes on
        for i, (prompt, completion) in enumerate(zip(plan.prompts, completions, strict=True)):
            row = {"step": state.step, "index": i, "prompt": prompt.text}
            text = prompt.continuation(plan.tokenizer, completion.tokens)
            row |= {"text": text, "stopped": completion.stopped}
            row |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            row["seed"] = sampling.seed + i
            self.samples.write(row)

    def save(self) -> None:
        """Make what was logged durable, then publish a checkpoint.

        Raises:
            TrainingError: a weight is not finite; nothing is published.
        """
        began = time.monotonic()
        check_weights(self.state.model, self.state.step)
        if self.processes.first:
            self.metrics.sync()
            self.samples.sync()
        self.state.save(self.checkpoints, self.plan.keep, self.plan.keep_steps)
        self.processes.wait()
        self.state.aside_seconds += time.monotonic() - began

    def stop_if_asked(self) -> None:
        """Save and leave when any process has got a signal."""
        number = self.processes.agree(self.flag.number or 0)
        if number:
            self.save()
            raise Stopped(number)


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """Give each step and process its own stream, as a pure function of the three."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def run_loop(
    plan: LoopPlan,
    state: TrainState,
    stream: RowStream,
    metrics: AppendLog,
    samples: AppendLog,
    checkpoints: Path,
    processes: Processes,
    flag: SignalFlag,
    observe: Callable[[dict[str, Any]], None],
    validated: frozenset[int],
    sampled: frozenset[int],
    saved_step: int | None,
) -> None:
    """Train from `state.step` to the end.

    Args:
        observe: told every row that is logged, on the first process.
        validated: steps whose validation the log already holds.
        sampled: steps whose texts the log already holds.
        saved_step: step of the checkpoint that the state came from.

    Raises:
        Stopped: a signal came; a checkpoint of the last whole step has been saved.
        TrainingError: a number was not finite; nothing of that step was kept.
    """
    parts = (plan, state, stream, metrics, samples, checkpoints, processes, flag, observe)
    loop = _Loop(*parts)
    state.model.train()
    try:
        _go_on(loop, validated, sampled, saved_step)
    finally:
        loop.batches.close()


def _go_on(
    loop: _Loop, validated: frozenset[int], sampled: frozenset[int], saved_step: int | None
) -> None:
    """Validate, save, update, in turn. Arguments as in `run_loop`."""
    plan, state = loop.plan, loop.state
    while True:
        unscored = state.step in plan.eval_steps and state.step not in validated
        unwritten = bool(plan.prompts) and state.step not in sampled
        try:
            if unscored:
                loop.validate()
            if state.step in plan.checkpoint_steps:
                if unwritten:
                    loop.write_samples()
                if unscored or unwritten or state.step != saved_step:
                    loop.save()  # again where a signal had cut this step's work short
            elif state.step in plan.keep_steps and state.step != saved_step:
                loop.save()
        except Stopped:
            loop.save()
            raise
        loop.stop_if_asked()
        if state.step == plan.n_steps:
            return
        loop.update()
