"""The largest micro-batch that a GPU's memory holds.

Owns the search. It runs once, before the folder of a run is written, and its result is in
config.json. The global batch does not change.
"""

import logging

import numpy as np
import torch

from ladderlm.data.batch import Batch
from ladderlm.dist import Processes
from ladderlm.errors import ConfigError
from ladderlm.model.transformer import Transformer
from ladderlm.training.compute import Compute
from ladderlm.training.run_config import RunConfig
from ladderlm.training.step import accumulate_gradients

__all__ = ["fit_micro_batch"]

MOMENTS = 2  # values that AdamW keeps for each weight; Muon keeps fewer
_log = logging.getLogger(__name__)


def fit_micro_batch(config: RunConfig, processes: Processes) -> int | None:
    """Return the rows of a micro-batch: as configured, or found with execution.fit_micro_batch.

    The search starts with all rows of a process and halves them until forward and backward pass
    fit next to the optimizer's state; the smallest result of all processes counts.

    Raises:
        ConfigError: the device is not a GPU, or not even one row fits.
    """
    execution = config.execution
    if not execution.fit_micro_batch:
        return execution.micro_batch_seqs
    if execution.device != "cuda":
        raise ConfigError(
            f"execution.fit_micro_batch on device {execution.device!r}",
            "a system that is out of main memory kills the process instead of raising an error",
            "set execution.micro_batch_seqs",
        )
    rows = -(-config.global_batch_seqs // processes.world_size)
    while not _fits(config, rows):
        if rows == 1:
            raise ConfigError(
                f"one row of {config.data.seq_len} tokens does not fit into the GPU's memory next "
                "to weights, gradients and the optimizer's state",
                fix="set execution.recompute to 'layers', or use a shorter data.seq_len",
            )
        rows = -(-rows // 2)
    rows = -processes.agree(-rows)
    _log.info("micro-batches of %d rows fit", rows)
    return rows


def _fits(config: RunConfig, n_rows: int) -> bool:
    """Return whether forward and backward pass fit next to what training keeps in memory."""
    try:
        _try(config, n_rows)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def _try(config: RunConfig, n_rows: int) -> None:
    model = Transformer(config.model).to(config.execution.device).train()
    model.recompute = config.execution.recompute == "layers"
    n_copies = MOMENTS + (config.train.ema_decay is not None)
    _kept = [torch.empty_like(p) for p in model.parameters() for _ in range(n_copies)]
    compute = Compute(model, config.train.precision)
    batch = _one_document_a_row(n_rows, config.data.seq_len)
    accumulate_gradients(compute, batch, batch.n_targets, n_rows, config.data.mask_documents)


def _one_document_a_row(n_rows: int, seq_len: int) -> Batch:
    shape = (n_rows, seq_len)
    zeros = np.zeros(shape, np.int64)
    positions = np.broadcast_to(np.arange(seq_len), shape).copy()
    return Batch(zeros, zeros, np.ones(shape, np.bool_), zeros, positions, zeros)
