"""What a run settles about its machine, before its first step.

Owns `settle`: the rule that a resumed run keeps the execution it began with, the probe of float32
matrix multiplications, whether layers are compiled. What follows from the config and the data
alone is settled in `resolve.py`, which needs no torch and names the run.
"""

import logging
from dataclasses import replace
from typing import Any, Literal

import torch

from ladderlm.dist import ALONE, Processes
from ladderlm.errors import ConfigError
from ladderlm.model.accounting import train_flops_per_token
from ladderlm.model.precision import FLOAT32_ERROR, Float32Matmul, float32_matmul_error
from ladderlm.run.micro_batch import fit_micro_batch
from ladderlm.training.compute import find_cpp_compiler
from ladderlm.training.config import ExecutionConfig
from ladderlm.training.run_config import RunConfig

__all__ = ["probe_matmul", "settle", "settle_compile"]

# FLOPs of one process from which compiling, a minute or less, is repaid several times over.
COMPILE_FROM_FLOPS = 1e14
_log = logging.getLogger(__name__)


def settle(
    config: RunConfig, processes: Processes = ALONE, began: RunConfig | None = None
) -> tuple[RunConfig, dict[str, Any]]:
    """Decide what only this machine can tell, so that nothing is filled in later.

    1. A resumed run keeps the execution that it began with: it must end with the same bytes.
    2. Float32 matrix multiplications take the fastest setting that a probe finds exact.
    3. Layers are compiled where the run is long enough to repay it.
    4. The micro-batch is tried on the GPU, as large as its memory holds, where it is asked for.
    5. A precision that this CPU emulates is named in a warning: it is the user's choice.

    Args:
        config: resolved.
        began: the config that the run folder holds; None: the run is new.

    Returns:
        The config that config.json holds from now on, and what step 2 measured.

    Raises:
        ConfigError: an option cannot be honoured here.
    """
    if began is not None:
        config = _keep_execution(config, began)
    matmul = probe_matmul(config.execution)
    execution = replace(
        config.execution,
        float32_matmul=matmul["setting"],
        compile=settle_compile(config, processes.world_size),
        micro_batch_seqs=fit_micro_batch(config, processes),
        fit_micro_batch=False,
    )
    _warn_of_emulation(config)
    return replace(config, execution=execution), matmul


def _keep_execution(config: RunConfig, old: RunConfig) -> RunConfig:
    """Resume with the execution that the run began with, so that equal bytes come out."""
    began = old.execution
    ours = config.execution
    if (began.n_threads, began.micro_batch_seqs) != (ours.n_threads, ours.micro_batch_seqs):
        _log.warning(
            "going on with %s threads and micro-batches of %s rows, as the run began",
            began.n_threads,
            began.micro_batch_seqs,
        )
    kept = replace(
        ours,
        n_threads=began.n_threads,
        micro_batch_seqs=began.micro_batch_seqs,
        fit_micro_batch=False,
        # a run older than the option multiplied by PyTorch's default
        float32_matmul="highest" if began.float32_matmul == "auto" else began.float32_matmul,
        compile="off" if began.compile == "auto" else began.compile,
    )
    # likewise with attention, which was PyTorch's kernel
    attention = "sdpa" if old.model.attention == "auto" else old.model.attention
    return replace(config, execution=kept, model=replace(config.model, attention=attention))


def probe_matmul(execution: ExecutionConfig) -> dict[str, Any]:
    """Decide how float32 matrices are multiplied, and return what was measured.

    `medium` sends the products of a CPU to oneDNN, which on some CPUs is twice as fast as the
    default and on others rounds to bfloat16. So `auto` takes it only where one product of 512-wide
    matrices is as exact as float32 can be, and it is never taken on a GPU, where it means TF32 or
    less.

    Returns:
        {"setting", "relative_error"}: `float32_matmul` decided, and the error of that
        multiplication against float64, where it was measured.

    Raises:
        ConfigError: `medium` is asked for, by the user or by the run that is resumed, and is not
            exact here.
    """
    asked = execution.float32_matmul
    if asked == "highest" or (asked == "auto" and execution.device != "cpu"):
        return {"setting": "highest"}
    error = float32_matmul_error("medium")
    exact = execution.device == "cpu" and error < FLOAT32_ERROR
    if asked == "medium" and not exact:
        raise ConfigError(
            "execution.float32_matmul = 'medium' is not float32 on this machine: a product of "
            f"512-wide matrices is off by {error:.1e} on the CPU, and a GPU rounds to TF32",
            "the run would train in another precision than its config says",
            "set execution.float32_matmul to 'highest' (a run begun elsewhere: in its config.json)",
        )
    setting: Float32Matmul = "medium" if exact else "highest"
    return {"setting": setting, "relative_error": float32_matmul_error(setting)}


def settle_compile(config: RunConfig, world_size: int) -> Literal["on", "off"]:
    """Decide whether the layers are compiled, by length and precision and never by a cache.

    Compiled float32 products are no faster, so `auto` takes long runs of half precision alone,
    where a C++ compiler is at hand.

    Raises:
        ConfigError: it is asked for and cannot be done here.
    """
    execution, model = config.execution, config.model
    asked, fix = execution.compile, "set execution.compile to 'off'"
    compiler = find_cpp_compiler() is not None or execution.device != "cpu"
    n_positions = config.positions_after(config.train.n_steps)
    flops = train_flops_per_token(model, config.data.seq_len) * n_positions / world_size
    if asked == "auto":
        pays = config.train.precision in ("bf16", "bf16-autocast", "fp16")
        pays = pays and flops >= COMPILE_FROM_FLOPS
        fixed = not model.dropout and config.train.first_batch_tokens is None
        fixed = fixed and (execution.shard != "weights" or world_size == 1)
        return "on" if pays and compiler and fixed else "off"
    if asked == "on" and model.dropout:
        raise ConfigError(
            f"execution.compile = 'on' with model.dropout = {model.dropout:g}",
            "compiled code draws other random numbers, so the run would depend on how it is run",
            fix,
        )
    if asked == "on" and config.train.first_batch_tokens is not None:
        raise ConfigError(
            "execution.compile = 'on' with train.first_batch_tokens",
            "code is compiled for one shape, and every batch of the rise has another",
            fix,
        )
    if asked == "on" and execution.shard == "weights" and world_size > 1:
        raise ConfigError(
            "execution.compile = 'on' with execution.shard = 'weights'",
            "the layers are compiled whole, and FSDP2 gathers each of them at its start",
            f"{fix}, or execution.shard to 'optimizer'",
        )
    if asked == "on" and not compiler:
        raise ConfigError(
            "execution.compile = 'on', and there is no C++ compiler here",
            "torch.compile makes C++ code for a CPU",
            f"install g++ or clang++ (or name one in the variable CXX), or {fix}",
        )
    return asked


def _warn_of_emulation(config: RunConfig) -> None:
    """Warn where half-precision products are slower than float32: the CPU emulates them."""
    precision = config.train.precision
    if precision == "float32" or config.execution.device != "cpu":
        return
    probe = "fp16" if precision == "fp16" else "bf16"
    supported: bool = getattr(torch.ops.mkldnn, f"_is_mkldnn_{probe}_supported")()
    if not supported:
        _log.warning(
            "train.precision = %r: this CPU has no %s products, they are emulated many times "
            "slower than float32; train.precision = 'float32' is the faster one here",
            precision,
            probe,
        )
