"""From a `RunConfig` to a finished run folder.

Owns opening or resuming the folder and building the model; the end is in `finish.py`.
Uses nothing but the standard library, torch, numpy and safetensors (tiktoken where installed).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from ladderlm.checkpoint.layout import (
    list_checkpoints,
    remove_unfinished,
    step_folder,
    verify_checkpoint,
)
from ladderlm.checkpoint.load import load_newest
from ladderlm.config import differences, meaning_of, to_dict
from ladderlm.data.shards import Split
from ladderlm.data.stream import RowStream
from ladderlm.dist import Processes
from ladderlm.errors import CheckpointError, LadderError, Stopped
from ladderlm.files import AppendLog, FolderLock, publish_json, remove_tree
from ladderlm.machine import describe_hardware, find_device
from ladderlm.model.init import init_weights
from ladderlm.model.precision import float32_matmul
from ladderlm.model.transformer import Transformer
from ladderlm.optim.groups import build_optimizer
from ladderlm.run.branch import check_trunk, take_over
from ladderlm.run.directory import RunDirectory
from ladderlm.run.environment import describe_environment
from ladderlm.run.finish import finish, note_end, policy_of, write_summary
from ladderlm.run.machine import (
    check_half_precision,
    keep_execution,
    settle_compile,
    settle_matmul,
)
from ladderlm.run.micro_batch import fit_micro_batch
from ladderlm.run.peak import measured_peak
from ladderlm.run.resolve import eval_steps, open_splits, resolve
from ladderlm.tokenizer.load import copy_tokenizer, load_tokenizer
from ladderlm.tokenizer.prompt import encode_prompt
from ladderlm.train.average import WeightAverage
from ladderlm.train.compute import HALF_COPIES, Compute
from ladderlm.train.guards import SignalFlag, explain_memory
from ladderlm.train.loop import LoopPlan, run_loop
from ladderlm.train.run_config import RunConfig
from ladderlm.train.sharding import Sharding
from ladderlm.train.state import TrainState
from ladderlm.train.step import accumulate_gradients
from ladderlm.train.throughput import Peaks, peak_flops_per_second

__all__ = ["Resume", "execute"]

Resume = Literal["auto", "never", "must"]
_log = logging.getLogger(__name__)


def execute(
    config: RunConfig,
    resume: Resume = "auto",
    observe: Callable[[dict[str, Any]], None] = lambda _row: None,
    wait: bool = False,
) -> Path:
    """Carry out a run, or go on with it; give its folder.

    A finished run is left as it is. A run that was killed goes on from its newest good
    checkpoint and ends with the same bytes as one that was not.

    Args:
        config: as written by hand, or the config.json of a run.
        resume: auto goes on if there is something to go on from; never starts anew and deletes
            the folder's old run; must demands a checkpoint.
        observe: told every row of metrics.
        wait: while another process holds the folder, wait for it instead of refusing.

    Raises:
        LadderError: see `errors.py`.
        Stopped: a signal came and the state was saved.
    """
    began = time.monotonic()
    processes = Processes.join(find_device(config.execution.device, "execution.device"))
    try:
        resolved = resolve(config, processes.world_size)
        folder = Path(resolved.out) if resolved.out else Path("runs") / resolved.run_id
        directory = RunDirectory(folder)
        lock = FolderLock(folder, wait) if processes.first else None
        try:
            with SignalFlag() as flag:
                return _execute_locked(resolved, directory, resume, processes, flag, observe, began)
        finally:
            if lock is not None:
                lock.release()
    finally:
        processes.leave()


def _execute_locked(
    config: RunConfig,
    directory: RunDirectory,
    resume: Resume,
    processes: Processes,
    flag: SignalFlag,
    observe: Callable[[dict[str, Any]], None],
    began: float,
) -> Path:
    if processes.first:
        _open_folder(config, directory, resume)
    processes.wait()
    if directory.finished:
        return directory.path
    config = keep_execution(config, directory)
    execution, matmul = settle_matmul(config.execution)
    config = replace(config, execution=execution)
    config = replace(config, execution=settle_compile(config, processes.world_size))
    execution = fit_micro_batch(config, processes)
    config = replace(config, execution=execution)
    check_half_precision(config)
    torch.set_num_threads(execution.n_threads or 1)
    device = execution.device
    hardware, precision = describe_hardware(device), config.train.precision
    with float32_matmul(matmul["setting"]):
        measured = measured_peak(hardware, device, precision) if processes.first else 0.0
    peaks = Peaks(processes.share(measured), peak_flops_per_second(hardware, precision))
    if processes.first:
        publish_json(directory.config_file, to_dict(config))
        environment = describe_environment(torch.get_num_threads(), device)
        environment |= {"float32_matmul": matmul, "peak_flops_per_second": asdict(peaks)}
        environment |= {"timing": {"started_at": datetime.now(UTC).isoformat()}}
        publish_json(directory.environment_file, environment)
        source = Path(config.data.path or "") / "tokenizer"
        copy_tokenizer(source, directory.path / "tokenizer")
    try:
        with float32_matmul(matmul["setting"]):
            state = _train(config, directory, processes, flag, observe, peaks, began)
            finish(config, directory, state, processes, flag, observe)
    except LadderError as error:
        note_end(directory, processes, "failed", error.what)
        raise
    except Stopped as stop:
        note_end(directory, processes, "stopped", f"signal {stop.signal_number}")
        raise
    return directory.path


def _open_folder(config: RunConfig, directory: RunDirectory, resume: Resume) -> None:
    """Refuse a folder that holds another run; clear it if asked to start anew."""
    check_trunk(config)
    if resume == "never":
        for name in ("checkpoints", "evals"):
            remove_tree(directory.path / name)
        files = (directory.metrics_file, directory.samples_file, directory.summary_file)
        for file in (*files, directory.config_file):  # execution is settled anew as well
            remove_tree(file)
    elif directory.config_file.exists():
        old = directory.config()
        if old.run_id != config.run_id:
            changed = differences(meaning_of(old), meaning_of(config))
            raise CheckpointError(
                f"{directory.path} holds run {old.run_id}, this config is {config.run_id}",
                f"they differ in {'; '.join(changed[:6])}",
                "choose another --out, or --resume never to delete the old run",
            )
    for name in remove_unfinished(directory.checkpoints):
        _log.warning("removed %s: a save that was cut short", name)
    if resume == "must" and not list_checkpoints(directory.checkpoints):
        raise CheckpointError(
            f"{directory.path} holds no checkpoint",
            "--resume must was given",
            "start it without --resume must",
        )


def _build(config: RunConfig) -> Transformer:
    model = Transformer(config.model)
    init_weights(model, config.train.seed)
    model.recompute = config.execution.recompute == "layers"
    return model.to(config.execution.device)


def _train(
    config: RunConfig,
    directory: RunDirectory,
    processes: Processes,
    flag: SignalFlag,
    observe: Callable[[dict[str, Any]], None],
    peaks: Peaks,
    began: float,
) -> TrainState:
    data, train, val = open_splits(config)
    model = _build(config)
    compiled, precision = config.execution.compile == "on", config.train.precision
    sharding = Sharding(processes, config.execution.shard)
    sharding.prepare(model, HALF_COPIES.get(precision))
    state = TrainState(
        model,
        build_optimizer(model, config.optim, sharding.owned),
        Compute(model, precision, compiled, sharding=sharding),
        config.run_id,
        average=WeightAverage(model, decay) if (decay := config.train.ema_decay) else None,
    )
    saved = load_newest(directory.checkpoints, _log.warning)
    if saved is None and config.execution.start_from is not None:
        saved = take_over(config, directory, processes)
    if saved is not None:
        state.restore(saved)
        if state.best:
            _check_best(directory, state)
        _log.info("going on from step %d", state.step)
    reached = state.step if saved is not None else -1
    logs: list[AppendLog] = [_NoLog(), _NoLog()]
    if processes.first:
        kept = [directory.metrics_file, directory.samples_file]
        logs = [AppendLog(path, lambda row: row.get("step", 0) <= reached) for path in kept]
        write_summary(config, directory, state, "running", {})
    processes.wait()
    if processes.first and saved is not None:
        _drop_newer(directory, state.step)
    metrics, samples = logs
    validated = frozenset(row["step"] for row in directory.metrics("eval"))
    sampled = frozenset(row["step"] for row in directory.samples())
    stream = RowStream(train, config.data, data.bos_id)
    n_devices = processes.world_size
    all_devices = Peaks(
        peaks.measured * n_devices, peaks.datasheet * n_devices if peaks.datasheet else None
    )
    plan = _plan(config, val, all_devices, began)
    if compiled:
        cache = directory.path.parent / ".compiled"
        with explain_memory(plan.micro_batch_seqs, state.step + 1):
            state.compute.warm_up(lambda: _rehearse(plan, state, stream, processes), cache)
    own = step_folder(directory.checkpoints, state.step)
    saved_step = state.step if saved is not None and saved.checkpoint.folder == own else None
    try:
        run_loop(
            plan,
            state,
            stream,
            metrics,
            samples,
            directory.checkpoints,
            processes,
            flag,
            observe,
            validated,
            sampled,
            saved_step,
        )
    finally:
        metrics.close()
        samples.close()
    return state


def _rehearse(plan: LoopPlan, state: TrainState, stream: RowStream, processes: Processes) -> None:
    """Go forward and backward over the first step's rows, whose shapes are those of every step."""
    batch = stream.rows(0, plan.growth.rows_at(0), processes.rank, processes.world_size)
    state.model.train()
    state.compute.refresh()
    shape = (plan.micro_batch_seqs, plan.mask_documents)
    accumulate_gradients(state.compute, batch, 1, *shape)


def _check_best(directory: RunDirectory, state: TrainState) -> None:
    """Refuse to go on towards an end that needs a checkpoint which is gone or damaged."""
    best = state.best["step"]
    found = {c.step: c for c in list_checkpoints(directory.checkpoints)}
    if best not in found:
        raise CheckpointError(
            f"{directory.checkpoints} has lost the checkpoint of step {best}, the best so far",
            "the end of the run scores it over all documents",
            "restore the folder from a copy, or begin anew with --resume never",
        )
    if best != state.step:
        verify_checkpoint(found[best])


def _drop_newer(directory: RunDirectory, step: int) -> None:
    """Delete damaged checkpoints past the one that was loaded: rotation would prefer them."""
    for checkpoint in list_checkpoints(directory.checkpoints):
        if checkpoint.step > step:
            _log.warning("removed %s: it is damaged", checkpoint.folder.name)
            remove_tree(checkpoint.folder)


class _NoLog(AppendLog):
    """Stands in for the logs on processes that write no files."""

    def __init__(self) -> None:
        pass

    def write(self, row: dict[str, Any]) -> None:
        """Drop the row."""

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _plan(config: RunConfig, val: Split, peaks: Peaks, began: float) -> LoopPlan:
    tokenizer = load_tokenizer(Path(config.data.path or "") / "tokenizer")
    evaluation = config.eval
    texts = ["" for _ in range(evaluation.n_samples)] + list(evaluation.sample_prompts)
    room = config.model.max_seq_len - 1
    prompts = [encode_prompt(tokenizer, text, room) for text in texts]
    scored = eval_steps(config.train.n_steps, evaluation.n_evals)
    every = config.checkpoint.every_steps
    n_steps = config.train.n_steps
    saved = set(sorted(scored)[2::2]) if every is None else set(range(every, n_steps, every))
    return LoopPlan(
        n_steps=n_steps,
        growth=config.batch_growth,
        seq_len=config.data.seq_len,
        seed=config.train.seed,
        log_every_steps=config.train.log_every_steps,
        optim=config.optim,
        z_loss=config.train.z_loss,
        micro_batch_seqs=config.execution.micro_batch_seqs or 1,
        mask_documents=config.data.mask_documents,
        validation=val,
        head_name=f"val-head-{evaluation.head_tokens}",
        head_tokens=evaluation.head_tokens or 1,
        n_documents=evaluation.n_documents,
        policy=policy_of(config),
        eval_steps=scored,
        checkpoint_steps=frozenset(saved | {n_steps}),
        keep=config.checkpoint.keep,
        keep_steps=frozenset(config.checkpoint.keep_steps),
        prompts=tuple(prompts),
        sample_tokens=evaluation.sample_tokens,
        tokenizer=tokenizer,
        stop_ids=frozenset({tokenizer.eos_id, tokenizer.bos_id}),
        peaks=peaks,
        began=began,
    )
