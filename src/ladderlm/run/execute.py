"""Carry out a run: from a `RunConfig` to a finished run folder.

Owns opening or resuming the folder and building the model; `finish.py` owns the end. Imports only
the standard library, torch, numpy and safetensors (tiktoken where installed).
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from ladderlm.checkpoint.layout import (
    list_checkpoints,
    newest_good,
    remove_unfinished,
    step_folder,
    verify_checkpoint,
)
from ladderlm.checkpoint.load import load_state
from ladderlm.config import differences, meaning_of, to_dict
from ladderlm.data.stream import RowStream
from ladderlm.dist import Processes
from ladderlm.errors import CheckpointError, LadderError, Stopped
from ladderlm.files import FolderLock, publish_json, remove_tree
from ladderlm.machine import describe_hardware, find_device
from ladderlm.model.init import init_weights
from ladderlm.model.precision import Float32Matmul, float32_matmul
from ladderlm.model.transformer import Transformer
from ladderlm.optim.groups import build_optimizer
from ladderlm.run.branch import check_trunk, take_over
from ladderlm.run.directory import RunDirectory
from ladderlm.run.environment import describe_environment
from ladderlm.run.finish import finish, note_end, write_summary
from ladderlm.run.peak import measured_peak
from ladderlm.run.resolve import open_splits, resolve
from ladderlm.run.settle import settle
from ladderlm.tokenizer.load import copy_tokenizer, load_tokenizer
from ladderlm.training.average import WeightAverage
from ladderlm.training.compute import HALF_COPIES, Compute
from ladderlm.training.guards import SignalFlag, explain_memory
from ladderlm.training.loop import run_loop
from ladderlm.training.run_config import RunConfig
from ladderlm.training.session import Logs, Session
from ladderlm.training.sharding import Sharding
from ladderlm.training.state import TrainState
from ladderlm.training.step import accumulate_gradients
from ladderlm.training.throughput import Peaks, peak_flops_per_second

__all__ = ["Resume", "execute"]

Resume = Literal["auto", "never", "must"]
_log = logging.getLogger(__name__)


def execute(
    config: RunConfig,
    resume: Resume = "auto",
    observe: Callable[[dict[str, Any]], None] = lambda _row: None,
    wait: bool = False,
) -> Path:
    """Carry out a run, or resume it, and return its folder.

    A finished run is left unchanged. A run that was killed resumes from its newest undamaged
    checkpoint and ends with the same bytes as one that was not.

    Args:
        config: as written by hand, or the config.json of a run.
        resume: auto resumes if there is a checkpoint; never deletes the folder's old run and
            starts from the first step; must requires a checkpoint.
        observe: called with every row of metrics, on the first process.
        wait: wait while another process holds the folder, instead of raising.

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
        lock = FolderLock(folder, wait) if processes.first else nullcontext()
        with lock, SignalFlag() as flag:
            if processes.first:
                _open_folder(resolved, directory, resume)
            processes.wait()
            if not directory.finished:
                config, peaks = _settle_folder(resolved, directory, processes)
                data, train, val = open_splits(config)
                session = Session(
                    config=config,
                    processes=processes,
                    flag=flag,
                    checkpoints=directory.checkpoints,
                    validation=val,
                    tokenizer=load_tokenizer(data.tokenizer_folder),
                    peaks=peaks,
                    began=began,
                )
                stream = RowStream(train, config.data, data.bos_id)
                _carry_out(session, directory, stream, observe)
            return directory.path
    finally:
        processes.leave()


def _settle_folder(
    config: RunConfig, directory: RunDirectory, processes: Processes
) -> tuple[RunConfig, Peaks]:
    """Settle the config for this machine, write it and the environment into the folder.

    Returns:
        The settled config, and the peaks of all devices together.
    """
    began = directory.config() if directory.config_file.exists() else None
    config, matmul = settle(config, processes, began)
    device, precision = config.execution.device, config.train.precision
    torch.set_num_threads(config.execution.n_threads or 1)
    hardware = describe_hardware(device)
    with float32_matmul(_matmul_of(config)):
        measured = measured_peak(hardware, device, precision) if processes.first else 0.0
    peaks = Peaks(processes.share(measured), peak_flops_per_second(hardware, precision))
    if processes.first:
        publish_json(directory.config_file, to_dict(config))
        environment = describe_environment(torch.get_num_threads(), device)
        environment |= {"float32_matmul": matmul, "peak_flops_per_second": asdict(peaks)}
        environment |= {"timing": {"started_at": datetime.now(UTC).isoformat()}}
        publish_json(directory.environment_file, environment)
        copy_tokenizer(Path(config.data.path or "") / "tokenizer", directory.path / "tokenizer")
    return config, peaks.times(processes.world_size)


def _matmul_of(config: RunConfig) -> Float32Matmul:
    """Return the precision of float32 matrix multiplications of a settled config."""
    return "medium" if config.execution.float32_matmul == "medium" else "highest"


def _open_folder(config: RunConfig, directory: RunDirectory, resume: Resume) -> None:
    """Check that the folder holds this run or none; clear it if `resume` is never."""
    check_trunk(config)
    if resume == "never":
        files = (directory.metrics_file, directory.samples_file, directory.summary_file)
        for path in (directory.checkpoints, directory.evals, *files, directory.config_file):
            remove_tree(path)
    elif directory.config_file.exists():
        old = directory.config()
        if old.run_id != config.run_id:
            changed = differences(meaning_of(old), meaning_of(config))
            raise CheckpointError(
                f"{directory.path} holds run {old.run_id}, this config is {config.run_id}: they "
                f"differ in {'; '.join(changed[:6])}",
                fix="choose another --out, or use --resume never to delete the old run",
            )
    for name in remove_unfinished(directory.checkpoints):
        _log.warning("removed %s: an incomplete checkpoint", name)
    if resume == "must" and not list_checkpoints(directory.checkpoints):
        raise CheckpointError(
            f"{directory.path} holds no checkpoint, which --resume must requires",
            fix="use --resume auto",
        )


def _build_state(config: RunConfig, processes: Processes) -> TrainState:
    """Return the state of a run before its first step."""
    model = Transformer(config.model)
    init_weights(model, config.train.seed)
    model.recompute = config.execution.recompute == "layers"
    model.to(config.execution.device)
    precision, compiled = config.train.precision, config.execution.compile == "on"
    sharding = Sharding(processes, config.execution.shard)
    sharding.prepare(model, HALF_COPIES.get(precision))
    return TrainState(
        model,
        build_optimizer(model, config.optim, sharding.owned),
        Compute(model, precision, compiled, sharding=sharding),
        config.run_id,
        average=WeightAverage(model, decay) if (decay := config.train.ema_decay) else None,
    )


def _carry_out(
    session: Session,
    directory: RunDirectory,
    stream: RowStream,
    observe: Callable[[dict[str, Any]], None],
) -> None:
    """Train from the folder's newest state to the end of the run."""
    try:
        with float32_matmul(_matmul_of(session.config)):
            state = _build_state(session.config, session.processes)
            _resume(session, directory, state, observe)
            with closing(session.logs):
                if session.config.execution.compile == "on":
                    _warm_up(session, state, stream, directory.path.parent / ".compiled")
                run_loop(session, state, stream)
                finish(session, directory, state)
    except LadderError as error:
        note_end(directory, session.processes, "failed", error.what)
        raise
    except Stopped as stop:
        note_end(directory, session.processes, "stopped", f"signal {stop.signal_number}")
        raise


def _resume(
    session: Session,
    directory: RunDirectory,
    state: TrainState,
    observe: Callable[[dict[str, Any]], None],
) -> None:
    """Restore the newest state, and open the logs at its step."""
    config, processes = session.config, session.processes
    saved = newest_good(directory.checkpoints, load_state)
    if saved is None and config.execution.start_from is not None:
        saved = take_over(config, directory, processes)
    if saved is not None:
        state.restore(saved)
        if state.best:
            _check_best(directory, state)
        _log.info("resuming from step %d", state.step)
        if saved.checkpoint.folder == step_folder(directory.checkpoints, state.step):
            session.saved_step = state.step
    if processes.first:
        files = (directory.metrics_file, directory.samples_file)
        session.logs = Logs(files, state.step if saved is not None else -1, observe)
        write_summary(config, directory, state, "running", {})
    processes.wait()
    if processes.first and saved is not None:
        _drop_newer(directory, state.step)
    session.validated = frozenset(row["step"] for row in directory.metrics("eval"))
    session.sampled = frozenset(row["step"] for row in directory.samples())


def _warm_up(session: Session, state: TrainState, stream: RowStream, cache: Path) -> None:
    """Compile by a forward and backward pass over the first step's rows."""
    config, processes = session.config, session.processes
    n_rows = config.batch_growth.rows_at(0)
    micro_batch_seqs = config.execution.micro_batch_seqs or n_rows

    def rehearse() -> None:
        batch = stream.rows(0, n_rows, processes.rank, processes.world_size)
        state.model.train()
        state.compute.refresh()
        accumulate_gradients(state.compute, batch, 1, micro_batch_seqs, config.data.mask_documents)

    with explain_memory(micro_batch_seqs, state.step + 1):
        state.compute.warm_up(rehearse, cache)


def _check_best(directory: RunDirectory, state: TrainState) -> None:
    """Check that the best checkpoint, which the end of the run scores, is there and good."""
    best = state.best["step"]
    found = {c.step: c for c in list_checkpoints(directory.checkpoints)}
    if best not in found:
        raise CheckpointError(
            f"{directory.checkpoints} has lost the checkpoint of step {best}, the best so far",
            "the end of the run scores it on all documents",
            "restore the folder from a copy, or train again with --resume never",
        )
    if best != state.step:
        verify_checkpoint(found[best])


def _drop_newer(directory: RunDirectory, step: int) -> None:
    """Delete damaged checkpoints newer than the loaded one: rotation would keep them instead."""
    for checkpoint in list_checkpoints(directory.checkpoints):
        if checkpoint.step > step:
            _log.warning("removed %s: it is damaged", checkpoint.folder.name)
            remove_tree(checkpoint.folder)
